"""Conditional reads, writes, copies and deletes."""

import datetime
import threading

import pytest
from botocore.exceptions import ClientError

from test_boto3_objects import refused

FAILED = (412, "PreconditionFailed")
OTHER = '"00000000000000000000000000000000"'


@pytest.fixture
def stored(site):
    """(site, ETag, a time before and one after the last change of the object `k`)."""
    etag = site.put("k", b"data")["ETag"]
    changed = site.head("k")["LastModified"]
    hour = datetime.timedelta(hours=1)
    return site, etag, changed - hour, changed + datetime.timedelta(seconds=1)


def read_status(call, **conditions):
    try:
        return call("k", **conditions)["ResponseMetadata"]["HTTPStatusCode"]
    except ClientError as error:
        return error.response["ResponseMetadata"]["HTTPStatusCode"]


@pytest.mark.parametrize("verb", ["get", "head"])
def test_reads(stored, verb):
    site, etag, before, after = stored
    call = getattr(site, verb)
    assert read_status(call, IfMatch=etag) == 200
    assert read_status(call, IfMatch="*") == 200
    assert read_status(call, IfMatch=f"{OTHER}, {etag}") == 200
    assert read_status(call, IfMatch=OTHER) == 412
    assert read_status(call, IfNoneMatch=etag) == 304
    assert read_status(call, IfNoneMatch="*") == 304
    assert read_status(call, IfNoneMatch=OTHER) == 200
    assert read_status(call, IfModifiedSince=before) == 200
    assert read_status(call, IfUnmodifiedSince=before) == 412
    assert read_status(call, IfUnmodifiedSince=after) == 200


def test_precedence_of_read_conditions(stored):
    site, etag, before, after = stored
    assert read_status(site.get, IfMatch=etag, IfUnmodifiedSince=before) == 200
    assert read_status(site.get, IfNoneMatch=etag, IfModifiedSince=before) == 304
    assert read_status(site.get, IfMatch=OTHER, IfNoneMatch=OTHER) == 412
    assert read_status(site.get, IfMatch=OTHER, Range="bytes=100-") == 412, "412, never 416"
    unchanged = datetime.datetime.now(datetime.UTC)
    assert read_status(site.get, IfModifiedSince=unchanged) in (200, 304)


def test_not_modified_carries_the_etag_and_no_body(stored):
    site, etag, _, _ = stored
    with pytest.raises(ClientError) as caught:
        site.get("k", IfNoneMatch=etag)
    headers = caught.value.response["ResponseMetadata"]["HTTPHeaders"]
    assert headers["etag"] == etag and "content-length" not in headers


def test_put_if_none_match(site):
    first = site.put("new", b"first", IfNoneMatch="*")["ETag"]
    assert refused(site.put, key="new", body=b"second", IfNoneMatch=first)[:2] == FAILED
    site.put("new", b"first", IfNoneMatch=OTHER)
    assert refused(site.put, key="new", body=b"second", IfNoneMatch="*")[:2] == FAILED
    assert site.read("new") == b"first"
    (site.directory / "by-hand").write_bytes(b"a file nobody uploaded")
    assert refused(site.put, key="by-hand", body=b"x", IfNoneMatch="*")[:2] == FAILED


def test_put_if_match(site):
    assert refused(site.put, key="k", body=b"x", IfMatch=OTHER)[:2] == (404, "NoSuchKey")
    etag = site.put("k", b"one")["ETag"]
    assert refused(site.put, key="k", body=b"x", IfMatch=OTHER)[:2] == FAILED
    second = site.put("k", b"two", IfMatch=etag)["ETag"]
    assert refused(site.put, key="k", body=b"three", IfMatch=etag)[:2] == FAILED
    assert site.read("k") == b"two"
    (site.directory / "k").write_bytes(b"edited outside")
    assert refused(site.put, key="k", body=b"four", IfMatch=second)[:2] == FAILED
    site.put("k", b"five", IfMatch=site.head("k")["ETag"])
    assert site.read("k") == b"five"


def test_complete_multipart_conditions(site):
    def upload(**condition):
        identity = site.s3.create_multipart_upload(Bucket="demo", Key="big")["UploadId"]
        part = site.s3.upload_part(
            Bucket="demo", Key="big", UploadId=identity, PartNumber=1, Body=b"only part")
        return site.s3.complete_multipart_upload(
            Bucket="demo", Key="big", UploadId=identity, **condition,
            MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]})

    assert refused(upload, IfMatch=OTHER)[:2] == (404, "NoSuchKey")
    etag = upload(IfNoneMatch="*")["ETag"]
    assert refused(upload, IfNoneMatch="*")[:2] == FAILED
    assert refused(upload, IfMatch=OTHER)[:2] == FAILED
    upload(IfMatch=etag)


def test_delete_conditions(site):
    etag = site.put("k", b"x")["ETag"]
    assert refused(site.s3.delete_object, Bucket="demo", Key="k", IfMatch=OTHER)[:2] == FAILED
    assert site.read("k") == b"x"
    site.s3.delete_object(Bucket="demo", Key="k", IfMatch=etag)
    assert site.keys() == []
    site.put("k", b"y")
    site.s3.delete_object(Bucket="demo", Key="k", IfMatch="*")
    assert site.keys() == []


def test_delete_objects_with_etags(site):
    etag = site.put("right", b"x")["ETag"]
    site.put("wrong", b"x")
    answer = site.s3.delete_objects(Bucket="demo", Delete={"Objects": [
        {"Key": "right", "ETag": etag}, {"Key": "wrong", "ETag": OTHER}]})
    assert [entry["Key"] for entry in answer["Deleted"]] == ["right"]
    assert [(e["Key"], e["Code"]) for e in answer["Errors"]] == [("wrong", "PreconditionFailed")]
    assert site.keys() == ["wrong"]


def test_copy_source_conditions(stored):
    site, etag, before, after = stored

    def copy(**conditions):
        return site.s3.copy_object(
            Bucket="demo", Key="copy", CopySource={"Bucket": "demo", "Key": "k"}, **conditions)

    copy(CopySourceIfMatch=etag)
    copy(CopySourceIfNoneMatch=OTHER)
    copy(CopySourceIfModifiedSince=before)
    copy(CopySourceIfUnmodifiedSince=after)
    assert refused(copy, CopySourceIfMatch=OTHER)[:2] == FAILED
    assert refused(copy, CopySourceIfNoneMatch=etag)[:2] == FAILED
    assert refused(copy, CopySourceIfUnmodifiedSince=before)[:2] == FAILED
    copy(CopySourceIfMatch=etag, CopySourceIfUnmodifiedSince=before)
    assert refused(copy, CopySourceIfNoneMatch=etag, CopySourceIfModifiedSince=before)[:2] == FAILED


def test_one_of_many_conditional_writers_wins(site):
    clients = [site.server.client() for _ in range(16)]
    for attempt in range(5):
        gate, outcomes = threading.Barrier(len(clients)), []

        def write(number, client, key=f"race-{attempt}"):
            gate.wait()
            try:
                client.put_object(
                    Bucket="demo", Key=key, Body=b"%d" % number, IfNoneMatch="*")
                outcomes.append(number)
            except ClientError as error:
                code = error.response["Error"]["Code"]
                assert code in ("PreconditionFailed", "ConditionalRequestConflict"), code

        threads = [threading.Thread(target=write, args=pair) for pair in enumerate(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(outcomes) == 1
        assert site.read(f"race-{attempt}") == b"%d" % outcomes[0]


def test_deletes_of_absent_keys_with_conditions(site):
    """S3 documents 204 for size and time where there is no object; an ETag asks for one."""
    delete = site.s3.delete_object
    long_ago = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    for condition in ({"IfMatchSize": 9}, {"IfMatchLastModifiedTime": long_ago}):
        answer = delete(Bucket="demo", Key="absent", **condition)
        assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204, condition
    refusal = refused(delete, Bucket="demo", Key="absent", IfMatch=OTHER)
    assert refusal[:2] == (404, "NoSuchKey")

"""Objects through boto3: bytes, headers, ranges, overrides, deletes, and files edited from outside."""

import datetime
import hashlib
import io
import os

import pytest
from botocore.exceptions import ClientError

import wire

MIB = 1 << 20


def refused(call, **arguments):
    """(status, code, message) of a call that must fail."""
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    answer = caught.value.response
    return (answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"],
            answer["Error"]["Message"])


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 65537, MIB, 9 * MIB])
def test_what_was_put_comes_back(site, payload, size):
    data = payload(size)
    put = site.put("object", data)
    assert put["ETag"] == f'"{hashlib.md5(data).hexdigest()}"'
    got = site.get("object")
    assert got["ContentLength"] == size
    assert got["ETag"] == put["ETag"]
    assert got["Body"].read() == data
    assert (site.directory / "object").read_bytes() == data


def test_headers_and_metadata_are_kept(site):
    headers = {
        "CacheControl": "max-age=60", "ContentDisposition": 'attachment; filename="a b.txt"',
        "ContentEncoding": "gzip", "ContentLanguage": "de", "ContentType": "text/x-test",
        "Metadata": {"one": "1", "two-words": "zwei Worte", "empty": ""},
    }
    site.put("headers", b"x", Expires=datetime.datetime(2030, 1, 2, 3, 4, 5), **headers)
    for answer in (site.head("headers"), site.get("headers")):
        assert {name: answer[name] for name in headers} == headers
        assert answer["ExpiresString"] == "Wed, 02 Jan 2030 03:04:05 GMT"


def test_metadata_stays_when_a_file_is_edited_but_etag_and_checksum_go(site):
    site.put("note.txt", b"first", ContentType="text/x-note", Metadata={"by": "s3"})
    etag = site.head("note.txt")["ETag"]
    (site.directory / "note.txt").write_bytes(b"second, longer")
    head = site.head("note.txt", ChecksumMode="ENABLED")
    assert head["ContentLength"] == 14
    assert head["ContentType"] == "text/x-note" and head["Metadata"] == {"by": "s3"}
    assert head["ETag"] != etag
    assert not [name for name in head if name.startswith("Checksum")]
    assert site.read("note.txt") == b"second, longer"


def test_files_from_outside_are_seen_at_once(site):
    (site.directory / "sub").mkdir()
    (site.directory / "sub" / "page.html").write_bytes(b"<html>")
    head = site.head("sub/page.html")
    assert head["ContentType"] == "text/html"
    assert len(head["ETag"].strip('"').split("-")[0]) == 32 and "-" in head["ETag"]
    assert site.head("sub/page.html")["ETag"] == head["ETag"], "the same file, the same ETag"
    assert site.read("sub/page.html") == b"<html>"
    assert site.keys() == ["sub/page.html"]

    (site.directory / "sub" / "page.html").write_bytes(b"<HTML>")
    assert site.read("sub/page.html") == b"<HTML>"
    os.rename(site.directory / "sub" / "page.html", site.directory / "moved")
    assert refused(site.head, key="sub/page.html")[0] == 404
    assert site.keys() == ["moved"]
    os.unlink(site.directory / "moved")
    assert site.keys() == []
    assert refused(site.get, key="moved")[:2] == (404, "NoSuchKey")


def test_an_overwrite_replaces_headers_too(site):
    site.put("k", b"old and long", Metadata={"a": "1"}, ContentType="text/plain")
    site.put("k", b"new")
    head = site.head("k")
    assert head["Metadata"] == {} and head["ContentLength"] == 3
    assert head["ContentType"] == "binary/octet-stream" or "octet-stream" in head["ContentType"]


@pytest.mark.parametrize("header, expected, shown", [
    ("bytes=0-3", b"0123", "bytes 0-3/10"),
    ("bytes=4-", b"456789", "bytes 4-9/10"),
    ("bytes=-3", b"789", "bytes 7-9/10"),
    ("bytes=-100", b"0123456789", "bytes 0-9/10"),
    ("bytes=9-9", b"9", "bytes 9-9/10"),
    ("bytes=0-8388607", b"0123456789", "bytes 0-9/10"),
    ("bytes=8-20", b"89", "bytes 8-9/10"),
])
def test_ranges(site, header, expected, shown):
    site.put("digits", b"0123456789")
    got = site.get("digits", Range=header)
    assert got["ResponseMetadata"]["HTTPStatusCode"] == 206
    assert got["ContentRange"] == shown and got["ContentLength"] == len(expected)
    assert got["Body"].read() == expected


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=10-20", "bytes=-0"])
def test_ranges_that_cannot_be_satisfied(site, header):
    site.put("digits", b"0123456789")
    with pytest.raises(ClientError) as caught:
        site.get("digits", Range=header)
    error = caught.value.response
    assert error["ResponseMetadata"]["HTTPStatusCode"] == 416
    assert error["Error"]["Code"] == "InvalidRange"
    assert error["Error"]["ActualObjectSize"] == "10"


@pytest.mark.parametrize("header", ["bytes=5-2", "bytes=a-b", "lines=1-2", "bytes=1-2,4-5"])
def test_ranges_that_mean_nothing_give_the_whole_object(site, header):
    site.put("digits", b"0123456789")
    got = site.get("digits", Range=header)
    assert got["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert got["Body"].read() == b"0123456789"


def test_response_overrides(site):
    site.put("k", b"data", ContentType="text/plain")
    overrides = {
        "ResponseCacheControl": ("CacheControl", "no-cache"),
        "ResponseContentDisposition": ("ContentDisposition", "attachment; filename=x.txt"),
        "ResponseContentEncoding": ("ContentEncoding", "identity"),
        "ResponseContentLanguage": ("ContentLanguage", "mi, en"),
        "ResponseContentType": ("ContentType", "foo/bar"),
    }
    got = site.get("k", **{name: value for name, (_, value) in overrides.items()})
    assert {name: got[name] for name, _ in overrides.values()} == dict(overrides.values())
    expires = datetime.datetime(2031, 1, 1, tzinfo=datetime.UTC)
    assert site.get("k", ResponseExpires=expires)["ExpiresString"] == "Wed, 01 Jan 2031 00:00:00 GMT"
    assert site.head("k")["ContentType"] == "text/plain", "an override is for one answer"


def test_delete_is_idempotent_and_prunes_what_s3_made(site):
    (site.directory / "by-hand").mkdir()
    site.put("by-hand/a", b"1")
    site.put("made/by/s3", b"2")
    for _ in range(2):
        answer = site.s3.delete_object(Bucket="demo", Key="made/by/s3")
        assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204
    site.s3.delete_object(Bucket="demo", Key="by-hand/a")
    assert not (site.directory / "made").exists()
    assert (site.directory / "by-hand").is_dir()


def test_delete_objects(site):
    keys = [f"many/{n:03}" for n in range(50)] + ["odd & <key>", "ü/ö", "a", "a/b"]
    for key in keys:
        site.put(key, b"x")
    gone = site.s3.delete_objects(
        Bucket="demo", Delete={"Objects": [{"Key": key} for key in [*keys, "never-there"]]})
    assert {entry["Key"] for entry in gone["Deleted"]} == {*keys, "never-there"}
    assert "Errors" not in gone
    assert site.keys() == []

    site.put("quiet", b"x")
    gone = site.s3.delete_objects(
        Bucket="demo", Delete={"Objects": [{"Key": "quiet"}], "Quiet": True})
    assert "Deleted" not in gone and "Errors" not in gone
    assert site.keys() == []


def test_delete_objects_refuses_over_1000_keys(site):
    site.put("k0", b"x")
    objects = [{"Key": f"k{n}"} for n in range(1001)]
    status, code, _ = refused(
        site.s3.delete_objects, Bucket="demo", Delete={"Objects": objects})
    assert (status, code) == (400, "MalformedXML")
    assert site.keys() == ["k0"]


def test_streamed_upload_and_download(site, payload, tmp_path):
    data = payload(20 * MIB)
    site.s3.upload_fileobj(io.BytesIO(data), "demo", "streamed")
    target = tmp_path / "target"
    site.s3.download_file("demo", "streamed", str(target))
    assert target.read_bytes() == data


def test_a_reader_keeps_the_version_it_opened(site, payload):
    old, new = payload(24 * MIB, seed=1), payload(24 * MIB, seed=2)
    site.put("k", old)
    body = site.get("k")["Body"]
    first = body.read(1 * MIB)
    site.put("k", new)
    assert first + body.read() == old
    assert site.read("k") == new


def test_buckets_of_a_served_directory_are_fixed(site):
    site.plain_files()
    status, code, message = refused(site.s3.create_bucket, Bucket="another")
    assert (status, code) == (403, "AccessDenied")
    assert "--root" in message
    assert not (site.directory.parent / "another").exists()
    status, code, message = refused(site.s3.delete_bucket, Bucket="demo")
    assert status in (403, 409) and site.directory.is_dir()


def test_buckets_in_root_mode(rooted):
    s3, root = rooted.s3, rooted.directory.parent
    assert s3.create_bucket(Bucket="second")["Location"] == "/second"
    assert (root / "second").is_dir()
    again = s3.create_bucket(Bucket="second")
    assert again["ResponseMetadata"]["HTTPStatusCode"] == 200, "the owner's bucket, in us-east-1"
    (root / "dropped-in").mkdir()
    names = [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]
    assert names == ["demo", "dropped-in", "second"]
    assert s3.head_bucket(Bucket="dropped-in")["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert s3.get_bucket_location(Bucket="second")["LocationConstraint"] is None
    s3.put_object(Bucket="second", Key="k", Body=b"")
    assert refused(s3.delete_bucket, Bucket="second")[:2] == (409, "BucketNotEmpty")
    s3.delete_object(Bucket="second", Key="k")
    s3.delete_bucket(Bucket="second")
    assert refused(s3.head_bucket, Bucket="second")[0] == 404
    assert not (root / "second").exists()


def test_error_codes(site):
    s3 = site.s3
    assert refused(site.get, key="missing")[:2] == (404, "NoSuchKey")
    assert refused(site.head, key="missing")[0] == 404
    assert refused(s3.get_object, Bucket="nowhere", Key="k")[:2] == (404, "NoSuchBucket")
    assert refused(s3.put_object, Bucket="nowhere", Key="k")[:2] == (404, "NoSuchBucket")
    assert refused(s3.list_objects_v2, Bucket="nowhere")[:2] == (404, "NoSuchBucket")
    assert refused(s3.head_bucket, Bucket="nowhere")[0] == 404
    assert refused(site.put, key="k" * 1025)[:2] == (400, "KeyTooLongError")
    assert refused(site.put, key="k", body=b"x", ContentMD5="AAAA")[:2] == (400, "InvalidDigest")
    other = "1B2M2Y8AsgTpgAmY7PhCfg=="
    assert refused(site.put, key="k", body=b"x", ContentMD5=other)[:2] == (400, "BadDigest")
    assert refused(
        s3.list_objects_v2, Bucket="demo", ContinuationToken="not one")[:2] == (400, "InvalidArgument")
    assert site.keys() == []


def test_credentials_that_are_wrong(site):
    stranger = site.server.client(access_key="nobody-knows")
    assert refused(stranger.list_buckets)[:2] == (403, "InvalidAccessKeyId")
    forger = site.server.client(secret_key="not-the-secret")
    assert refused(forger.list_buckets)[:2] == (403, "SignatureDoesNotMatch")
    anonymous = wire.plain(site.server, "GET", "/demo?list-type=2")
    assert (anonymous.status, anonymous.code) == (403, "AccessDenied")
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=20)
    late = wire.signed(site.server, "GET", "/demo", now=past)
    assert (late.status, late.code) == (403, "RequestTimeTooSkewed")
    assert wire.signed(site.server, "GET", "/demo").status == 200


def test_every_answer_has_a_request_id_and_errors_repeat_it(site):
    answer = wire.signed(site.server, "GET", "/demo/missing")
    identity = answer.headers["x-amz-request-id"]
    assert identity and f"<RequestId>{identity}</RequestId>".encode() in answer.body
    assert b"<Resource>/demo/missing</Resource>" in answer.body
    assert answer.headers["Content-Type"] == "application/xml"
    head = wire.signed(site.server, "HEAD", "/demo/missing")
    assert (head.status, head.body) == (404, b"") and head.headers["x-amz-request-id"] != identity


def test_any_region_and_a_named_us_east_1_are_accepted(rooted):
    elsewhere = rooted.server.client(region="eu-central-1")
    elsewhere.put_object(Bucket="demo", Key="k", Body=b"x")
    assert rooted.read("k") == b"x"
    body = (b'<CreateBucketConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            b"<LocationConstraint>us-east-1</LocationConstraint></CreateBucketConfiguration>")
    assert wire.signed(rooted.server, "PUT", "/constrained", body=body).status == 200


@pytest.mark.parametrize("header, code", [
    ("x-amz-server-side-encryption", "InvalidArgument"),
    ("x-amz-server-side-encryption-aws-kms-key-id", "InvalidArgument"),
    ("x-amz-server-side-encryption-customer-key", "InvalidArgument"),
])
def test_reads_that_speak_of_encryption_are_refused(site, header, code):
    site.put("k", b"data")
    assert wire.signed(site.server, "GET", "/demo/k", headers={header: "x"}).code == code
    assert wire.signed(site.server, "HEAD", "/demo/k", headers={header: "x"}).status == 400

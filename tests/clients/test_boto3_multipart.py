"""Multipart uploads: parts, copies of parts, listings, aborts, the errors."""

import base64
import hashlib
import re
import time

import pytest
from boto3.s3.transfer import TransferConfig

import wire
from test_boto3_objects import refused

MIB = 1 << 20
TARGET = {"Bucket": "demo", "Key": "big/object"}


@pytest.fixture
def upload(site):
    return site.s3.create_multipart_upload(
        **TARGET, ContentType="text/x-big", Metadata={"parts": "many"})["UploadId"]


def send(site, upload, number, data):
    answer = site.s3.upload_part(**TARGET, UploadId=upload, PartNumber=number, Body=data)
    assert answer["ETag"] == f'"{hashlib.md5(data).hexdigest()}"'
    return {"PartNumber": number, "ETag": answer["ETag"]}


def complete(site, upload, parts, **more):
    return site.s3.complete_multipart_upload(
        **TARGET, UploadId=upload, MultipartUpload={"Parts": parts}, **more)


def etag_of_parts(parts):
    inner = b"".join(hashlib.md5(part).digest() for part in parts)
    return f'"{hashlib.md5(inner).hexdigest()}-{len(parts)}"'


def test_parts_in_any_order_make_one_object(site, upload, payload):
    parts = [payload(5 * MIB), payload(5 * MIB, seed=2), payload(123, seed=3)]
    sent = {number: send(site, upload, number, parts[number - 1]) for number in (3, 1, 2)}
    assert not (site.directory / "big" / "object").exists(), "nothing shows before completion"
    assert site.keys() == []
    done = complete(site, upload, [sent[number] for number in (1, 2, 3)])
    assert done["ETag"] == etag_of_parts(parts)
    assert (done["Bucket"], done["Key"]) == ("demo", "big/object")
    head = site.head(TARGET["Key"])
    assert (head["ETag"], head["ContentType"], head["Metadata"]) == (
        done["ETag"], "text/x-big", {"parts": "many"})
    assert (site.directory / "big" / "object").read_bytes() == b"".join(parts)
    assert site.s3.list_multipart_uploads(Bucket="demo").get("Uploads") is None


def test_part_numbers_can_have_gaps_and_parts_can_be_left_out(site, upload, payload):
    parts = {number: payload(5 * MIB, seed=number) for number in (2, 7, 100)}
    sent = {number: send(site, upload, number, data) for number, data in parts.items()}
    send(site, upload, 50, b"left out")
    complete(site, upload, [sent[number] for number in (2, 7, 100)])
    assert site.read(TARGET["Key"]) == b"".join(parts.values())


def test_a_part_sent_again_replaces_the_first(site, upload, payload):
    first, second = payload(5 * MIB), payload(6 * MIB, seed=2)
    old = send(site, upload, 1, first)
    new = send(site, upload, 1, second)
    assert refused(complete, site=site, upload=upload, parts=[old])[:2] == (400, "InvalidPart")
    complete(site, upload, [new])
    assert site.read(TARGET["Key"]) == second


def test_completing_twice_gives_the_same_answer(site, upload):
    part = send(site, upload, 1, b"data")
    first = complete(site, upload, [part])
    assert complete(site, upload, [part])["ETag"] == first["ETag"]
    site.put(TARGET["Key"], b"another object")
    assert refused(complete, site=site, upload=upload, parts=[part])[:2] == (404, "NoSuchUpload")


def test_part_number_reads_one_part(site, upload, payload):
    parts = [payload(5 * MIB), payload(777, seed=2)]
    complete(site, upload, [send(site, upload, n, data) for n, data in enumerate(parts, 1)])
    second = site.get(TARGET["Key"], PartNumber=2)
    assert second["ResponseMetadata"]["HTTPStatusCode"] == 206
    assert second["PartsCount"] == 2
    assert second["ContentRange"] == f"bytes {5 * MIB}-{5 * MIB + 776}/{5 * MIB + 777}"
    assert second["Body"].read() == parts[1]
    assert site.head(TARGET["Key"], PartNumber=1)["ContentLength"] == 5 * MIB
    assert refused(site.get, key=TARGET["Key"], PartNumber=3)[0] == 416
    site.put("single", b"whole")
    assert site.read("single", PartNumber=1) == b"whole"


def test_errors(site, upload, payload):
    small, large = send(site, upload, 1, b"small"), send(site, upload, 2, payload(5 * MIB))
    call = {"call": complete, "site": site, "upload": upload}
    assert refused(**call, parts=[small, large])[:2] == (400, "EntityTooSmall")
    assert refused(**call, parts=[large, small])[:2] == (400, "InvalidPartOrder")
    assert refused(**call, parts=[large, large])[:2] == (400, "InvalidPartOrder")
    missing = {"PartNumber": 9, "ETag": small["ETag"]}
    assert refused(**call, parts=[large, missing])[:2] == (400, "InvalidPart")
    assert refused(**call, parts=[])[:2] == (400, "MalformedXML")
    assert refused(**call | {"upload": "no-such-upload"}, parts=[small])[:2] == (404, "NoSuchUpload")
    for number in (0, 10001):
        assert refused(site.s3.upload_part, **TARGET, UploadId=upload, PartNumber=number,
                       Body=b"x")[:2] == (400, "InvalidArgument")
    other_key = TARGET | {"Key": "another"}
    assert refused(site.s3.upload_part, **other_key, UploadId=upload, PartNumber=1,
                   Body=b"x")[:2] == (404, "NoSuchUpload")
    assert site.keys() == []


def test_the_size_that_a_client_states_is_verified(site, upload, payload):
    part = send(site, upload, 1, b"12345")
    assert refused(complete, site=site, upload=upload, parts=[part],
                   MpuObjectSize=6)[:2] == (400, "InvalidRequest")
    complete(site, upload, [part], MpuObjectSize=5)


def test_a_part_with_a_wrong_digest_is_not_kept(site, upload):
    wrong = base64.b64encode(hashlib.md5(b"other").digest()).decode()
    assert refused(site.s3.upload_part, **TARGET, UploadId=upload, PartNumber=1, Body=b"x",
                   ContentMD5=wrong)[:2] == (400, "BadDigest")
    assert "Parts" not in site.s3.list_parts(**TARGET, UploadId=upload)


def test_abort_frees_everything(site, upload, payload):
    send(site, upload, 1, payload(5 * MIB))
    site.s3.abort_multipart_upload(**TARGET, UploadId=upload)
    assert refused(site.s3.list_parts, **TARGET, UploadId=upload)[:2] == (404, "NoSuchUpload")
    assert refused(site.s3.abort_multipart_upload, **TARGET, UploadId=upload)[:2] == (
        404, "NoSuchUpload")
    def left():
        try:
            return [path for path in site.directory.rglob("*")
                    if path.is_file() and path.stat().st_size >= MIB]
        except FileNotFoundError:
            return "what was removed while it was looked at"

    # The space is given back behind the answer.
    for _ in range(100):
        if not left():
            break
        time.sleep(0.1)
    assert left() == [] and site.keys() == []


def test_list_parts_in_pages(site, upload):
    sizes = {number: number * 10 for number in range(1, 8)}
    for number, size in sizes.items():
        send(site, upload, number, b"x" * size)
    page = site.s3.list_parts(**TARGET, UploadId=upload, MaxParts=3)
    assert page["IsTruncated"] and page["NextPartNumberMarker"] == 3 and page["MaxParts"] == 3
    assert page["Owner"]["ID"] and page["Initiator"]["ID"] and page["StorageClass"] == "STANDARD"
    pages = site.s3.get_paginator("list_parts").paginate(
        **TARGET, UploadId=upload, PaginationConfig={"PageSize": 3})
    assert {part["PartNumber"]: part["Size"] for page in pages for part in page["Parts"]} == sizes


def test_list_uploads_in_pages(site):
    keys = ["a", "a", "b/1", "b/2", "c"]
    made = sorted((key, site.s3.create_multipart_upload(Bucket="demo", Key=key)["UploadId"])
                  for key in keys)
    found, marker = [], {}
    while True:
        page = site.s3.list_multipart_uploads(Bucket="demo", MaxUploads=2, **marker)
        found += [(entry["Key"], entry["UploadId"]) for entry in page["Uploads"]]
        if not page["IsTruncated"]:
            break
        marker = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}
    assert sorted(found) == made and [key for key, _ in found] == keys
    grouped = site.s3.list_multipart_uploads(Bucket="demo", Delimiter="/")
    assert [entry["Prefix"] for entry in grouped["CommonPrefixes"]] == ["b/"]
    assert [entry["Key"] for entry in grouped["Uploads"]] == ["a", "a", "c"]
    only = site.s3.list_multipart_uploads(Bucket="demo", Prefix="b/")
    assert [entry["Key"] for entry in only["Uploads"]] == ["b/1", "b/2"]


def test_uploads_survive_a_restart(start, tmp_path, payload):
    arguments = ["serve", tmp_path / "demo", "--listen", "127.0.0.1:0"]
    server = start(*arguments)
    s3 = server.client()
    upload = s3.create_multipart_upload(**TARGET)["UploadId"]
    data = payload(5 * MIB)
    part = s3.upload_part(**TARGET, UploadId=upload, PartNumber=1, Body=data)
    server.stop()
    s3 = start(*arguments).client()
    assert [p["Size"] for p in s3.list_parts(**TARGET, UploadId=upload)["Parts"]] == [5 * MIB]
    last = s3.upload_part(**TARGET, UploadId=upload, PartNumber=2, Body=b"end")
    s3.complete_multipart_upload(**TARGET, UploadId=upload, MultipartUpload={"Parts": [
        {"PartNumber": 1, "ETag": part["ETag"]}, {"PartNumber": 2, "ETag": last["ETag"]}]})
    assert s3.get_object(**TARGET)["Body"].read() == data + b"end"


def test_upload_part_copy(site, upload, payload):
    source = payload(11 * MIB)
    site.put("a source/ü+.bin", source)
    copied = []
    for number, (first, last) in enumerate([(0, 5 * MIB - 1), (5 * MIB, 11 * MIB - 1)], 1):
        answer = site.s3.upload_part_copy(
            **TARGET, UploadId=upload, PartNumber=number, CopySourceRange=f"bytes={first}-{last}",
            CopySource={"Bucket": "demo", "Key": "a source/ü+.bin"})["CopyPartResult"]
        assert answer["ETag"] == f'"{hashlib.md5(source[first:last + 1]).hexdigest()}"'
        copied.append({"PartNumber": number, "ETag": answer["ETag"]})
    copied.append(send(site, upload, 3, b"and a tail"))
    complete(site, upload, copied)
    assert site.read(TARGET["Key"]) == source + b"and a tail"


def test_upload_part_copy_errors(site, upload):
    site.put("source", b"0123456789")
    part = TARGET | {"UploadId": upload, "PartNumber": 1}

    def copy(source="source", span="bytes=0-9", **more):
        return site.s3.upload_part_copy(
            **part, CopySource={"Bucket": "demo", "Key": source}, CopySourceRange=span, **more)

    assert refused(copy, source="missing")[:2] == (404, "NoSuchKey")
    for span in ("bytes=0-10", "bytes=5-", "bytes=-3", "0-3", "bytes=5-2"):
        assert refused(copy, span=span)[0] in (400, 416), span
    assert refused(copy, CopySourceIfMatch='"0"')[:2] == (412, "PreconditionFailed")
    copy(span="bytes=9-9")


def test_transfer_manager_copies_large_objects_in_parts(site, payload):
    data = payload(20 * MIB)
    site.put("source", data)
    site.s3.copy({"Bucket": "demo", "Key": "source"}, "demo", "copy",
                 Config=TransferConfig(multipart_threshold=8 * MIB, multipart_chunksize=8 * MIB))
    assert (site.directory / "copy").read_bytes() == data
    assert site.head("copy")["ETag"].endswith('-3"')


def test_the_answer_to_completion_is_one_document(site, upload):
    part = send(site, upload, 1, b"data")
    body = (f"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{part['ETag']}</ETag>"
            "</Part></CompleteMultipartUpload>").encode()
    answer = wire.signed(site.server, "POST", "/demo/big/object", f"uploadId={upload}", body=body)
    assert answer.status == 200 and answer.headers["Content-Type"] == "application/xml"
    assert answer.body.count(b"<?xml") == 1
    assert re.search(rb"<Location>[^<]+</Location>", answer.body)


def test_completing_an_upload_that_never_was(site):
    parts = {"Parts": [{"ETag": "1234", "PartNumber": 1}]}
    answer = refused(site.s3.complete_multipart_upload, Bucket="demo", Key="k",
                     UploadId="nobody-opened-this", MultipartUpload=parts)
    assert answer[:2] == (404, "NoSuchUpload")

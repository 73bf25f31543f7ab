"""`etag = "fast"`: ETags that are not computed, on both engines."""

import base64
import hashlib
import re

import pytest

from test_boto3_objects import refused

LISTEN = ("--listen", "127.0.0.1:0")
FAST = re.compile(r'"[0-9a-f]{32}-10002"')
MIB = 1 << 20


@pytest.fixture(params=["fs", "blob"])
def fast(request, start, tmp_path, image):
    """(client, bucket) of a server with `--etag fast`."""
    if request.param == "fs":
        server = start("serve", tmp_path / "data", "--etag", "fast", *LISTEN)
        return server.client(), "data"
    server = start("serve", "--blob", f"{image}:64MiB", "--etag", "fast", *LISTEN)
    return server.client(), "lobos"


def test_a_fast_etag_names_one_write(fast):
    s3, bucket = fast
    first = s3.put_object(Bucket=bucket, Key="k", Body=b"data")["ETag"]
    assert FAST.fullmatch(first)
    assert s3.head_object(Bucket=bucket, Key="k")["ETag"] == first
    assert s3.get_object(Bucket=bucket, Key="k")["ETag"] == first
    assert s3.list_objects_v2(Bucket=bucket)["Contents"][0]["ETag"] == first
    second = s3.put_object(Bucket=bucket, Key="k", Body=b"data", IfMatch=first)["ETag"]
    assert FAST.fullmatch(second) and second != first
    assert refused(s3.put_object, Bucket=bucket, Key="k", Body=b"", IfMatch=first)[0] == 412
    copied = s3.copy_object(Bucket=bucket, Key="copy", CopySource=f"{bucket}/k")
    assert copied["CopyObjectResult"]["ETag"] == second


def test_content_md5_is_verified_all_the_same(fast):
    s3, bucket = fast
    md5 = base64.b64encode(hashlib.md5(b"data").digest()).decode()
    assert FAST.fullmatch(s3.put_object(Bucket=bucket, Key="k", Body=b"data", ContentMD5=md5)["ETag"])
    answer = refused(s3.put_object, Bucket=bucket, Key="k", Body=b"other", ContentMD5=md5)
    assert answer[:2] == (400, "BadDigest")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"data"


def test_uploads_in_parts_end_as_usual(fast, payload):
    s3, bucket = fast
    source = payload(6 * MIB)
    s3.put_object(Bucket=bucket, Key="source", Body=source)
    id = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    which = {"Bucket": bucket, "Key": "k", "UploadId": id}
    one = s3.upload_part(**which, PartNumber=1, Body=source)["ETag"]
    two = s3.upload_part_copy(**which, PartNumber=2, CopySource=f"{bucket}/source")
    parts = [{"PartNumber": 1, "ETag": one},
             {"PartNumber": 2, "ETag": two["CopyPartResult"]["ETag"]}]
    assert all(FAST.fullmatch(part["ETag"]) for part in parts)
    done = s3.complete_multipart_upload(**which, MultipartUpload={"Parts": parts})
    assert re.fullmatch(r'"[0-9a-f]{32}-2"', done["ETag"])
    again = s3.complete_multipart_upload(**which, MultipartUpload={"Parts": parts})
    assert again["ETag"] == done["ETag"], "a repetition answers the same object"
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == source + source


def test_a_bucket_may_have_its_own_mode(start, tmp_path):
    (tmp_path / "lobos.cfg").write_text(
        '[server]\nlisten = "127.0.0.1:0"\netag = "fast"\n'
        '[filesystem]\nroot = "root"\n[bucket.exact]\netag = "md5"\n')
    s3 = start("-c", tmp_path / "lobos.cfg").client()
    for bucket in ("exact", "other"):
        s3.create_bucket(Bucket=bucket)
    md5 = f'"{hashlib.md5(b"data").hexdigest()}"'
    assert s3.put_object(Bucket="exact", Key="k", Body=b"data")["ETag"] == md5
    assert FAST.fullmatch(s3.put_object(Bucket="other", Key="k", Body=b"data")["ETag"])

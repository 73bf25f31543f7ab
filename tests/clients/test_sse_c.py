"""Encryption with keys that clients keep (SSE-C): through boto3, the aws cli and raw requests."""

import base64
import hashlib
import http.client
import itertools
import os

import pytest
from botocore.exceptions import ClientError

import test_post_form

MIB = 1 << 20
BLOCK = 64 << 10
KEY, OTHER = b"k" * 32, b"o" * 32
# One object a size: around the blocks that are sealed one by one.
SIZES = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 17]


def sse(key=KEY, source=False):
    front = "CopySource" if source else ""
    return {f"{front}SSECustomerAlgorithm": "AES256", f"{front}SSECustomerKey": key}


def headers(secret=KEY, **changes):
    front = "x-amz-server-side-encryption-customer-"
    found = {"algorithm": "AES256", "key": base64.b64encode(secret).decode(),
             "key_MD5": base64.b64encode(hashlib.md5(secret).digest()).decode()} | changes
    return {front + name.replace("_", "-"): value
            for name, value in found.items() if value is not None}


def refused(call, **arguments):
    with pytest.raises(ClientError) as error:
        call(**arguments)
    answer = error.value.response
    return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"]


def all_bytes(directory):
    """Everything that lies below a bucket's directory, attributes aside."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    return b"".join(path.read_bytes() for path in files)


def test_what_is_sealed_is_read_with_its_key_only(site, payload):
    s3, bucket = site.s3, site.bucket
    for size in SIZES:
        data = payload(size)
        put = site.put("k", data, **sse(), ChecksumAlgorithm="SHA256", Metadata={"a": "b"})
        assert put["SSECustomerAlgorithm"] == "AES256" and put["SSECustomerKeyMD5"]
        assert hashlib.md5(data).hexdigest() not in put["ETag"]
        got = site.get("k", **sse(), ChecksumMode="ENABLED")
        assert got["Body"].read() == data and got["ContentLength"] == size
        assert got["ChecksumSHA256"] == put["ChecksumSHA256"], "of the plain bytes"
        assert (got["ETag"], got["Metadata"]) == (put["ETag"], {"a": "b"})
        head = site.head("k", **sse())
        assert (head["ContentLength"], head["SSECustomerKeyMD5"]) == (size, put["SSECustomerKeyMD5"])
        assert [entry["Size"] for entry in s3.list_objects_v2(Bucket=bucket)["Contents"]] == [size]
        # Here boto3 does not encode the key itself.
        encoded = {"SSECustomerAlgorithm": "AES256", "SSECustomerKeyMD5": put["SSECustomerKeyMD5"],
                   "SSECustomerKey": base64.b64encode(KEY).decode()}
        attributes = s3.get_object_attributes(
            Bucket=bucket, Key="k", ObjectAttributes=["ObjectSize", "ETag"], **encoded)
        assert attributes["ObjectSize"] == size
        for call in (s3.get_object, s3.head_object):
            assert refused(call, Bucket=bucket, Key="k")[0] == 400
            assert refused(call, Bucket=bucket, Key="k", **sse(OTHER))[0] == 403
        assert refused(s3.get_object_attributes, Bucket=bucket, Key="k",
                       ObjectAttributes=["ObjectSize"]) == (400, "InvalidRequest")
    site.put("plain", b"plain")
    assert refused(s3.get_object, Bucket=bucket, Key="plain", **sse()) == (400, "InvalidRequest")


def test_ranges_and_conditions_are_about_the_plain_bytes(site, payload):
    data = payload(3 * BLOCK + 17)
    etag = site.put("k", data, **sse())["ETag"]
    edges = [0, 1, BLOCK - 1, BLOCK, 2 * BLOCK + 5, 3 * BLOCK, len(data) - 1]
    for first, last in itertools.combinations_with_replacement(edges, 2):
        got = site.get("k", Range=f"bytes={first}-{last}", **sse())
        assert got["ContentRange"] == f"bytes {first}-{last}/{len(data)}"
        assert got["Body"].read() == data[first:last + 1], (first, last)
    assert site.read("k", Range="bytes=-20", **sse()) == data[-20:]
    assert site.read("k", PartNumber=1, **sse()) == data
    s3, bucket = site.s3, site.bucket
    assert refused(s3.get_object, Bucket=bucket, Key="k", Range=f"bytes={len(data)}-", **sse()) == (
        416, "InvalidRange")
    assert refused(s3.get_object, Bucket=bucket, Key="k", IfNoneMatch=etag, **sse())[0] == 304
    assert refused(s3.get_object, Bucket=bucket, Key="k", IfMatch='"x"', **sse())[0] == 412


def test_no_plain_byte_lies_on_the_disk(site):
    secret = b"a very secret sentence, written again and again. " * 4000
    for key in ("k", "dir/k"):
        site.put(key, b"old and plain")
        site.put(key, secret, **sse())
    upload = Upload(site, "parts", [secret * 27, secret])
    upload.complete()
    site.s3.copy_object(Bucket=site.bucket, Key="copy", CopySource=f"{site.bucket}/k",
                        **sse(source=True), **sse(OTHER))
    site.plain_files()
    stored = all_bytes(site.directory)
    assert b"secret sentence" not in stored and b"old and plain" not in stored
    assert not (site.directory / "k").exists() and not (site.directory / "dir").exists()
    # Back in the tree when it is plain again.
    site.put("k", b"plain")
    assert (site.directory / "k").read_bytes() == site.read("k") == b"plain"
    site.s3.delete_object(Bucket=site.bucket, Key="dir/k")
    assert site.keys() == ["copy", "k", "parts"]


def test_what_was_changed_on_the_disk_is_no_object(site, payload):
    site.plain_files()
    site.put("dir/k", payload(2 * BLOCK), **sse())
    [file] = [path for path in (site.directory / ".lobos" / "overlay").rglob("*") if path.is_file()]
    whole, stat = file.read_bytes(), file.stat()
    swapped = whole[:16] + whole[16 + BLOCK + 16:] + whole[16:16 + BLOCK + 16]
    flipped = whole[:-1] + bytes([whole[-1] ^ 1])
    for changed in (swapped, flipped, whole[:16 + BLOCK + 16]):
        file.write_bytes(changed)
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        with pytest.raises(Exception):
            site.read("dir/k", **sse())
    assert refused(site.s3.get_object, Bucket=site.bucket, Key="dir/k") == (400, "InvalidRequest")
    file.write_bytes(whole)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert site.read("dir/k", **sse()) == payload(2 * BLOCK)


def test_a_key_is_whole_or_the_request_is_refused(site):
    changes = {}

    def change(params, **_):
        params["headers"].update(headers(**changes))
    site.s3.meta.events.register("before-call.s3.PutObject", change)
    site.s3.meta.events.register("before-call.s3.CreateMultipartUpload", change)
    for changes in ({"algorithm": None}, {"key": None}, {"key_MD5": None}, {"algorithm": "AES128"},
                    {"key_MD5": "AAAAAAAAAAAAAAAAAAAAAA=="}, {"key": "%%%"},
                    {"key": base64.b64encode(b"short").decode()}):
        assert refused(site.s3.put_object, Bucket=site.bucket, Key="k", Body=b"data") == (
            400, "InvalidArgument"), changes
        assert refused(site.s3.create_multipart_upload, Bucket=site.bucket, Key="k")[0] == 400
        assert site.keys() == []
    changes = {}
    site.put("k", b"data")
    assert site.keys() == ["k"]


class Upload:
    """A sealed upload, one part a piece of data."""

    def __init__(self, site, key, pieces, **more):
        self.site, self.names = site, {"Bucket": site.bucket, "Key": key}
        made = site.s3.create_multipart_upload(**self.names, **sse(), **more)
        assert made["SSECustomerKeyMD5"]
        self.names["UploadId"] = made["UploadId"]
        self.parts = [self.part(number, data) for number, data in enumerate(pieces, 1)]

    def part(self, number, data, **more):
        made = self.site.s3.upload_part(
            **self.names, PartNumber=number, Body=data, **(more or sse()))
        return {"PartNumber": number, "ETag": made["ETag"]}

    def complete(self, **more):
        return self.site.s3.complete_multipart_upload(
            **self.names, MultipartUpload={"Parts": self.parts}, **(more or sse()))


def test_an_upload_is_sealed_part_by_part(site, payload):
    s3 = site.s3
    first, second, third = payload(5 * MIB + 1), payload(5 * MIB), payload(BLOCK + 3)
    upload = Upload(site, "k", [first, b"to be replaced", third])
    upload.parts[1] = upload.part(2, second)
    for more, status in (({}, 400), (sse(OTHER), 400)):
        assert refused(s3.upload_part, **upload.names, PartNumber=4, Body=b"x", **more)[0] == status
    listed = s3.list_parts(**upload.names)["Parts"]
    assert [part["Size"] for part in listed] == [len(first), len(second), len(third)]
    upload.complete()
    data = first + second + third
    assert site.head("k", **sse())["ContentLength"] == len(data)
    assert site.read("k", **sse()) == data
    assert site.keys() == ["k"]
    at = len(first)
    for start, end in ((0, 1), (at - 1, at + 1), (at, at + 5), (at + len(second) - 7, len(data)),
                       (at + 2 * BLOCK + 1, at + 2 * BLOCK + 9)):
        assert site.read("k", Range=f"bytes={start}-{end - 1}", **sse()) == data[start:end]
    got = site.get("k", PartNumber=3, **sse())
    assert (got["PartsCount"], got["ContentLength"]) == (3, len(third))
    assert got["Body"].read() == third
    assert refused(s3.get_object, Bucket=site.bucket, Key="k") == (400, "InvalidRequest")
    # Copied as a whole, with its own key and with another.
    for key in (KEY, OTHER):
        s3.copy_object(Bucket=site.bucket, Key="copy", CopySource=f"{site.bucket}/k",
                       **sse(source=True), **sse(key))
        assert site.read("copy", **sse(key)) == data


def test_a_plain_upload_takes_no_key(site):
    names = {"Bucket": site.bucket, "Key": "k"}
    upload = names | {"UploadId": site.s3.create_multipart_upload(**names)["UploadId"]}
    assert refused(site.s3.upload_part, **upload, PartNumber=1, Body=b"x", **sse()) == (
        400, "InvalidRequest")


def test_copies_between_plain_and_sealed(site, payload):
    for source, target in itertools.product([None, KEY], [None, KEY, OTHER]):
        copy_from_to(site, payload(2 * BLOCK + 9), source, target)


def copy_from_to(site, data, source, target):
    s3, bucket = site.s3, site.bucket
    site.put("from", data, **(sse(source) if source else {}), Metadata={"a": "b"})
    from_key = sse(source, source=True) if source else {}
    to_key = sse(target) if target else {}
    if source:
        copy = {"Bucket": bucket, "Key": "to", "CopySource": f"{bucket}/from", **to_key}
        assert refused(s3.copy_object, **copy)[0] == 400
        assert refused(s3.copy_object, **copy, **sse(b"w" * 32, source=True))[0] == 403
    for key in ("to", "from"):
        if key == "from" and not (source or target):
            continue
        made = s3.copy_object(Bucket=bucket, Key=key, CopySource=f"{bucket}/from", **from_key, **to_key)
        assert ("SSECustomerKeyMD5" in made) == bool(target)
        assert site.read(key, **to_key) == data
        head = site.head(key, **to_key)
        assert (head["ContentLength"], head["Metadata"]) == (len(data), {"a": "b"})
        assert (head["ETag"] == f'"{hashlib.md5(data).hexdigest()}"') == (not target)
        if key == "from":
            from_key = sse(target, source=True) if target else {}
    upload = s3.create_multipart_upload(Bucket=bucket, Key="part", **to_key)["UploadId"]
    names = {"Bucket": bucket, "Key": "part", "UploadId": upload}
    made = s3.upload_part_copy(**names, PartNumber=1, CopySource=f"{bucket}/to",
                               CopySourceRange=f"bytes=5-{BLOCK + 20}", **to_key,
                               **(sse(target, source=True) if target else {}))
    part = {"PartNumber": 1, "ETag": made["CopyPartResult"]["ETag"]}
    s3.complete_multipart_upload(**names, MultipartUpload={"Parts": [part]}, **to_key)
    assert site.read("part", **to_key) == data[5:BLOCK + 21]


def test_tags_and_metadata_change_without_the_bytes(site):
    s3, bucket = site.s3, site.bucket
    site.put("dir/k", b"data", **sse())
    s3.put_object_tagging(Bucket=bucket, Key="dir/k", Tagging={"TagSet": [{"Key": "a", "Value": "b"}]})
    assert s3.get_object_tagging(Bucket=bucket, Key="dir/k")["TagSet"] == [{"Key": "a", "Value": "b"}]
    s3.copy_object(Bucket=bucket, Key="dir/k", CopySource=f"{bucket}/dir/k", Metadata={"c": "d"},
                   MetadataDirective="REPLACE", **sse(source=True), **sse())
    got = site.get("dir/k", **sse())
    assert (got["Body"].read(), got["Metadata"]) == (b"data", {"c": "d"})
    assert refused(s3.get_object, Bucket=bucket, Key="dir/k") == (400, "InvalidRequest")


def test_a_presigned_link_works_with_its_key(site):
    site.put("k", b"data", **sse())
    url = site.s3.generate_presigned_url(
        "get_object", {"Bucket": site.bucket, "Key": "k", "SSECustomerAlgorithm": "AES256",
                       "SSECustomerKey": KEY})
    path = url.split("/", 3)[3]
    connection = http.client.HTTPConnection("127.0.0.1", site.server.port)
    for more, status in ((headers(), 200), (headers(OTHER), 403)):
        connection.request("GET", "/" + path, headers=more)
        answer = connection.getresponse()
        body = answer.read()
        assert answer.status == status, body
        assert (body == b"data") == (status == 200)
    connection.close()


def test_sec_fail_open_keys_of_the_server_are_refused_by_name(site):
    s3, bucket = site.s3, site.bucket
    site.put("plain", b"plain")
    copy = {"CopySource": f"{bucket}/plain"}
    for more in ({"ServerSideEncryption": "AES256"}, {"ServerSideEncryption": "aws:kms"},
                 {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "id"}):
        for call, own in ((s3.put_object, {"Body": b"x"}), (s3.create_multipart_upload, {}),
                          (s3.copy_object, copy)):
            assert refused(call, Bucket=bucket, Key="k", **own, **more) == (501, "NotImplemented")
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
    assert refused(s3.put_bucket_encryption, Bucket=bucket,
                   ServerSideEncryptionConfiguration={"Rules": [rule]}) == (501, "NotImplemented")
    assert site.keys() == ["plain"]


def test_versions_that_are_plain_and_sealed_follow_each_other(rooted):
    rooted.plain_files()
    s3, bucket, path = rooted.s3, rooted.bucket, rooted.directory / "dir" / "k"
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    keys = [{}, sse(), {}, sse(OTHER), sse()]
    ids = [rooted.put("dir/k", b"%d" % n, **key)["VersionId"] for n, key in enumerate(keys)]
    assert not path.exists()
    for n in reversed(range(len(keys))):
        assert rooted.read("dir/k", **keys[n]) == b"%d" % n
        assert path.exists() == (not keys[n])
        for older in range(n):
            assert rooted.read("dir/k", VersionId=ids[older], **keys[older]) == b"%d" % older
        s3.delete_object(Bucket=bucket, Key="dir/k", VersionId=ids[n])
    assert rooted.keys() == []
    # A marker over a sealed version, and the version back.
    rooted.put("k", b"data", **sse())
    marker = s3.delete_object(Bucket=bucket, Key="k")["VersionId"]
    assert refused(s3.get_object, Bucket=bucket, Key="k", **sse()) == (404, "NoSuchKey")
    s3.delete_object(Bucket=bucket, Key="k", VersionId=marker)
    assert rooted.read("k", **sse()) == b"data"
    assert not (rooted.directory / "k").exists()


def test_a_form_brings_its_key_in_fields(site, payload):
    data = payload(2 * BLOCK + 3)
    fields = test_post_form.signed(site.server, {"key": "k"} | {
        name.lower(): value for name, value in headers().items()})
    answer = test_post_form.post(site.server, fields, data, target=f"/{site.bucket}")
    assert answer.status == 204, answer.body
    assert site.read("k", **sse()) == data
    assert hashlib.md5(data).hexdigest() not in answer.headers["ETag"]
    assert refused(site.s3.get_object, Bucket=site.bucket, Key="k") == (400, "InvalidRequest")

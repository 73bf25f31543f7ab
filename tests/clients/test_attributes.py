"""GetObjectAttributes, and the checksums of every algorithm of the model."""

import base64
import hashlib

import pytest
from awscrt import checksums
from botocore.exceptions import ClientError

import wire

ALL = ["ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"]
ALGORITHMS = ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256", "SHA512", "XXHASH64", "XXHASH3",
              "XXHASH128"]
MIB = 1 << 20


def attributes(site, key, names=ALL, **more):
    return site.s3.get_object_attributes(
        Bucket=site.bucket, Key=key, ObjectAttributes=names, **more)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("when", ["trailer", "header"])
def test_every_algorithm_is_verified_kept_and_told(site, algorithm, when, payload):
    data = payload(100_000)
    site.put("k", data, ChecksumAlgorithm=algorithm)
    head = site.head("k", ChecksumMode="ENABLED")
    name = f"Checksum{algorithm}"
    assert head["ChecksumType"] == "FULL_OBJECT"
    got = attributes(site, "k")["Checksum"]
    assert got == {name: head[name], "ChecksumType": "FULL_OBJECT"}
    if when == "header":
        site.put("again", data, **{name: head[name]})
        assert site.head("again", ChecksumMode="ENABLED")[name] == head[name]
        with pytest.raises(ClientError) as error:
            site.put("wrong", data + b"x", **{name: head[name]})
        assert error.value.response["Error"]["Code"] == "BadDigest"
        assert site.keys() == ["again", "k"]
    # boto3 verifies it on the way back.
    assert site.read("k", ChecksumMode="ENABLED") == data


def test_the_digests_are_those_of_the_references(site, payload):
    data = payload(12_345)
    wanted = {
        "SHA512": hashlib.sha512(data).digest(), "MD5": hashlib.md5(data).digest(),
        "XXHASH64": checksums.XXHash.compute_xxhash64(data),
        "XXHASH3": checksums.XXHash.compute_xxhash3_64(data),
        "XXHASH128": checksums.XXHash.compute_xxhash3_128(data),
    }
    for algorithm, digest in wanted.items():
        text = base64.b64encode(digest).decode()
        header = {f"x-amz-checksum-{algorithm.lower()}": text}
        answer = wire.signed(site.server, "PUT", "/demo/k", headers=header, body=data)
        assert answer.status == 200, answer.body
        assert answer.headers[f"x-amz-checksum-{algorithm.lower()}"] == text


@pytest.mark.parametrize("algorithm", ["SHA256", "SHA512", "XXHASH3", "CRC32", "MD5"])
def test_a_multipart_checksum_is_one_of_checksums(site, algorithm, payload):
    where = {"Bucket": site.bucket, "Key": "k"}
    created = site.s3.create_multipart_upload(**where, ChecksumAlgorithm=algorithm)
    assert created["ChecksumType"] == "COMPOSITE"
    upload = where | {"UploadId": created["UploadId"]}
    name, parts = f"Checksum{algorithm}", []
    for number, data in enumerate([payload(5 * MIB), b"end"], 1):
        more = {"ChecksumAlgorithm": algorithm}
        if algorithm == "MD5":
            # botocore knows the name, and computes none.
            more = {name: base64.b64encode(hashlib.md5(data).digest()).decode()}
        part = site.s3.upload_part(**upload, PartNumber=number, Body=data, **more)
        parts.append({"PartNumber": number, "ETag": part["ETag"], name: part[name]})
    done = site.s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
    assert done[name].endswith("-2") and done["ChecksumType"] == "COMPOSITE"
    got = attributes(site, "k")
    assert got["Checksum"][name] == done[name]
    assert got["ETag"] == done["ETag"].strip('"')
    assert (got["ObjectSize"], got["StorageClass"]) == (5 * MIB + 3, "STANDARD")
    assert got["ObjectParts"]["TotalPartsCount"] == 2 and not got["ObjectParts"]["IsTruncated"]
    assert [part[name] for part in got["ObjectParts"]["Parts"]] == [part[name] for part in parts]
    assert [part["Size"] for part in got["ObjectParts"]["Parts"]] == [5 * MIB, 3]
    part = site.get("k", PartNumber=2, ChecksumMode="ENABLED")
    assert (part[name], part["ChecksumType"]) == (parts[1][name], "COMPOSITE")
    page = attributes(site, "k", ["ObjectParts"], MaxParts=1)["ObjectParts"]
    assert page["IsTruncated"] and page["NextPartNumberMarker"] == 1
    assert [part["PartNumber"] for part in page["Parts"]] == [1]
    page = attributes(site, "k", ["ObjectParts"], MaxParts=1, PartNumberMarker=1)["ObjectParts"]
    assert not page["IsTruncated"] and [part["PartNumber"] for part in page["Parts"]] == [2]


def test_only_what_was_asked_for_is_told(site):
    site.put("k", b"data")
    got = attributes(site, "k", ["ObjectSize"])
    assert got["ObjectSize"] == 4 and got["LastModified"] == site.head("k")["LastModified"]
    assert not {"ETag", "Checksum", "ObjectParts", "StorageClass"} & set(got)
    assert "ObjectParts" not in attributes(site, "k")


def test_questions_that_make_no_sense_are_refused(site):
    site.put("k", b"data")
    for headers in ({}, {"x-amz-object-attributes": "Size"}, {"x-amz-object-attributes": " , "},
                    {"x-amz-object-attributes": "ETag", "x-amz-max-parts": "many"}):
        answer = wire.signed(site.server, "GET", "/demo/k", "attributes=", headers=headers)
        assert answer.code == "InvalidArgument", headers
    with pytest.raises(ClientError) as error:
        attributes(site, "missing")
    assert error.value.response["Error"]["Code"] == "NoSuchKey"

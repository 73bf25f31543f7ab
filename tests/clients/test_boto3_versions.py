"""Versions through boto3, the aws cli and rclone: states, ids, markers, listings, what comes back."""

import json
import shutil

import pytest
from botocore.exceptions import ClientError

from lobos import AWS, clean_environment, run

RCLONE = shutil.which("rclone")
KEYS = ["k", "dir/k", "dir", "a//b", "é %+", "long/" + "l" * 300]


@pytest.fixture
def versioned(rooted):
    rooted.s3.put_bucket_versioning(
        Bucket=rooted.bucket, VersioningConfiguration={"Status": "Enabled"})
    return rooted


def refused(call, **arguments):
    with pytest.raises(ClientError) as error:
        call(**arguments)
    answer = error.value.response
    return (answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"],
            answer["ResponseMetadata"]["HTTPHeaders"])


def lines(site, **more):
    """(key, id, is latest) of all versions and markers, newest of each key first."""
    pages = site.s3.get_paginator("list_object_versions").paginate(Bucket=site.bucket, **more)
    found = []
    for page in pages:
        for kind in ("Versions", "DeleteMarkers"):
            found += [(e["Key"], e["VersionId"], e["IsLatest"], kind) for e in page.get(kind, [])]
    return found


def test_a_bucket_goes_from_nothing_to_enabled_and_suspended(rooted):
    s3, bucket = rooted.s3, rooted.bucket
    assert "Status" not in s3.get_bucket_versioning(Bucket=bucket)
    for status in ("Enabled", "Suspended", "Enabled"):
        s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": status})
        assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == status
    assert refused(s3.put_bucket_versioning, Bucket=bucket,
                   VersioningConfiguration={"Status": "Off"})[:2] == (400, "MalformedXML")
    assert refused(s3.put_bucket_versioning, Bucket=bucket, VersioningConfiguration={})[:2] == (
        400, "IllegalVersioningConfigurationException")


def test_the_current_version_stays_the_plain_file(versioned):
    first = versioned.put("dir/k", b"one")["VersionId"]
    second = versioned.put("dir/k", b"two")["VersionId"]
    assert (versioned.directory / "dir" / "k").read_bytes() == b"two"
    assert versioned.get("dir/k")["VersionId"] == second
    assert versioned.read("dir/k", VersionId=first) == b"one"
    # By hand: what another program writes is the null version, and the newest.
    (versioned.directory / "dir" / "k").write_bytes(b"by hand")
    answer = versioned.get("dir/k")
    assert (answer["VersionId"], answer["Body"].read()) == ("null", b"by hand")
    assert versioned.read("dir/k", VersionId=first) == b"one"
    third = versioned.put("dir/k", b"three")["VersionId"]
    assert versioned.read("dir/k", VersionId="null") == b"by hand"
    (versioned.directory / "dir" / "k").unlink()
    assert refused(versioned.get, key="dir/k")[:2] == (404, "NoSuchKey")
    assert not any(latest for _, _, latest, _ in lines(versioned))
    assert refused(versioned.get, key="dir/k", VersionId=third)[:2] == (404, "NoSuchVersion")


@pytest.mark.parametrize("key", KEYS)
def test_versions_and_markers_of_any_key(versioned, key):
    s3, bucket = versioned.s3, versioned.bucket
    ids = [versioned.put(key, b"v%d" % n, Metadata={"n": str(n)})["VersionId"] for n in range(3)]
    deleted = s3.delete_object(Bucket=bucket, Key=key)
    marker = deleted["VersionId"]
    assert deleted["DeleteMarker"] is True
    status, code, headers = refused(versioned.get, key=key)
    assert (status, code, headers["x-amz-delete-marker"]) == (404, "NoSuchKey", "true")
    assert headers["x-amz-version-id"] == marker
    status, code, headers = refused(versioned.get, key=key, VersionId=marker)
    assert (status, code, headers["x-amz-delete-marker"]) == (405, "MethodNotAllowed", "true")
    assert headers["allow"] == "DELETE" and "last-modified" in headers
    assert refused(versioned.head, key=key, VersionId=marker)[0] == 405
    for n, version in enumerate(ids):
        answer = versioned.get(key, VersionId=version)
        assert (answer["VersionId"], answer["Metadata"]) == (version, {"n": str(n)})
        assert answer["Body"].read() == b"v%d" % n
        assert versioned.head(key, VersionId=version)["ContentLength"] == 2
    expected = [(key, marker, True, "DeleteMarkers")]
    expected += [(key, version, False, "Versions") for version in reversed(ids)]
    for size in (1, 3, 1000):
        listed = lines(versioned, PaginationConfig={"PageSize": size})
        assert sorted(listed) == sorted(expected)
    assert versioned.keys() == []
    removed = s3.delete_object(Bucket=bucket, Key=key, VersionId=marker)
    assert (removed["DeleteMarker"], removed["VersionId"]) == (True, marker)
    assert versioned.read(key) == b"v2"
    removed = s3.delete_object(Bucket=bucket, Key=key, VersionId=ids[2])
    assert ("DeleteMarker" not in removed, removed["VersionId"]) == (True, ids[2])
    assert versioned.read(key) == b"v1"


def test_a_suspended_bucket_writes_the_null_version(versioned):
    s3, bucket = versioned.s3, versioned.bucket
    kept = versioned.put("k", b"kept")["VersionId"]
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Suspended"})
    assert "VersionId" not in versioned.put("k", b"null 1")
    versioned.put("k", b"null 2")
    assert versioned.get("k")["VersionId"] == "null"
    assert [line[1] for line in lines(versioned)] == ["null", kept]
    assert s3.delete_object(Bucket=bucket, Key="k")["VersionId"] == "null"
    assert refused(versioned.get, key="k")[2]["x-amz-version-id"] == "null"
    assert versioned.read("k", VersionId=kept) == b"kept"


def test_delete_objects_names_versions_and_makes_markers(versioned):
    s3, bucket = versioned.s3, versioned.bucket
    first, second = (versioned.put("k", body)["VersionId"] for body in (b"1", b"2"))
    versioned.put("other", b"3")
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": [
        {"Key": "k", "VersionId": second}, {"Key": "other"}, {"Key": "k", "VersionId": "none"},
    ]})
    assert "Errors" not in answer
    by_key = answer["Deleted"]
    assert by_key[0] == {"Key": "k", "VersionId": second}
    assert by_key[1]["DeleteMarker"] is True
    marker = by_key[1]["DeleteMarkerVersionId"]
    assert versioned.read("k") == b"1"
    answer = s3.delete_objects(
        Bucket=bucket, Delete={"Objects": [{"Key": "other", "VersionId": marker}]})
    assert answer["Deleted"] == [{"Key": "other", "VersionId": marker, "DeleteMarker": True,
                                  "DeleteMarkerVersionId": marker}]
    assert versioned.read("other") == b"3"
    assert refused(s3.delete_bucket, Bucket=bucket)[:2] == (409, "BucketNotEmpty")
    objects = [{"Key": key, "VersionId": version} for key, version, _, _ in lines(versioned)]
    s3.delete_objects(Bucket=bucket, Delete={"Objects": objects})
    assert lines(versioned) == []
    s3.delete_bucket(Bucket=bucket)


def test_copies_take_a_version_and_make_one(versioned):
    s3, bucket = versioned.s3, versioned.bucket
    first, second = (versioned.put("k", body)["VersionId"] for body in (b"old", b"new"))
    source = {"Bucket": bucket, "Key": "k", "VersionId": first}
    answer = s3.copy_object(Bucket=bucket, Key="k", CopySource=source)
    assert answer["CopySourceVersionId"] == first
    assert answer["VersionId"] not in (first, second)
    assert versioned.read("k") == b"old"
    again = s3.copy_object(Bucket=bucket, Key="k", CopySource={"Bucket": bucket, "Key": "k"},
                           MetadataDirective="REPLACE", Metadata={"a": "b"})
    assert again["VersionId"] != answer["VersionId"]
    assert versioned.head("k", VersionId=answer["VersionId"])["Metadata"] == {}
    upload = s3.create_multipart_upload(Bucket=bucket, Key="m")["UploadId"]
    part = s3.upload_part_copy(Bucket=bucket, Key="m", UploadId=upload, PartNumber=1,
                               CopySource=source)
    assert part["CopySourceVersionId"] == first
    parts = [{"PartNumber": 1, "ETag": part["CopyPartResult"]["ETag"]}]
    done = s3.complete_multipart_upload(
        Bucket=bucket, Key="m", UploadId=upload, MultipartUpload={"Parts": parts})
    assert versioned.read("m", VersionId=done["VersionId"]) == b"old"
    marker = s3.delete_object(Bucket=bucket, Key="k")["VersionId"]
    bad = {"Bucket": bucket, "Key": "k", "VersionId": marker}
    assert refused(s3.copy_object, Bucket=bucket, Key="x", CopySource=bad)[:2] == (
        400, "InvalidRequest")
    bad["VersionId"] = "f" * 40
    assert refused(s3.copy_object, Bucket=bucket, Key="x", CopySource=bad)[:2] == (
        404, "NoSuchVersion")


def test_a_listing_is_encoded_and_rolled_up(versioned):
    for key in ("a b/1", "a b/2", "é", "z"):
        versioned.put(key, b"")
    page = versioned.s3.list_object_versions(
        Bucket=versioned.bucket, Delimiter="/", EncodingType="url", MaxKeys=2)
    assert [p["Prefix"] for p in page["CommonPrefixes"]] == ["a%20b/"]
    assert [v["Key"] for v in page["Versions"]] == ["z"]
    assert page["IsTruncated"] and page["NextKeyMarker"] == "z"
    page = versioned.s3.list_object_versions(
        Bucket=versioned.bucket, Delimiter="/", KeyMarker="z",
        VersionIdMarker=page["NextVersionIdMarker"])
    assert [v["Key"] for v in page["Versions"]] == ["é"]
    assert refused(versioned.s3.list_object_versions, Bucket=versioned.bucket,
                   VersionIdMarker="x")[:2] == (400, "InvalidArgument")


def test_the_aws_cli_sees_versions(versioned, tmp_path):
    first = versioned.put("k", b"one")["VersionId"]
    versioned.put("k", b"two")
    environment = clean_environment(tmp_path) | {
        "AWS_ACCESS_KEY_ID": versioned.server.access_key,
        "AWS_SECRET_ACCESS_KEY": versioned.server.secret_key, "AWS_DEFAULT_REGION": "us-east-1",
    }

    def aws(*arguments):
        command = [*AWS, "--endpoint-url", versioned.server.endpoint]
        output = run([*command, "--output", "json", "s3api", *arguments], environment)
        return json.loads(output) if output.strip() else None

    bucket = ["--bucket", versioned.bucket]
    assert aws("get-bucket-versioning", *bucket) == {"Status": "Enabled"}
    listed = aws("list-object-versions", *bucket)["Versions"]
    assert [(v["VersionId"] == first, v["IsLatest"]) for v in listed] == [
        (False, True), (True, False)]
    target = tmp_path / "got"
    aws("get-object", *bucket, "--key", "k", "--version-id", first, str(target))
    assert target.read_bytes() == b"one"
    assert aws("delete-object", *bucket, "--key", "k")["DeleteMarker"] is True


@pytest.mark.skipif(RCLONE is None, reason="rclone is not installed")
def test_rclone_lists_and_copies_versions(versioned, tmp_path):
    versioned.put("k.txt", b"one")
    versioned.put("k.txt", b"two!")
    environment = clean_environment(tmp_path) | {
        "RCLONE_CONFIG": "/notfound",
        "RCLONE_CONFIG_LOBOS_TYPE": "s3",
        "RCLONE_CONFIG_LOBOS_PROVIDER": "Other",
        "RCLONE_CONFIG_LOBOS_ENDPOINT": versioned.server.endpoint,
        "RCLONE_CONFIG_LOBOS_ACCESS_KEY_ID": versioned.server.access_key,
        "RCLONE_CONFIG_LOBOS_SECRET_ACCESS_KEY": versioned.server.secret_key,
    }
    remote = f"lobos:{versioned.bucket}"
    run([RCLONE, "copy", "--s3-versions", remote, str(tmp_path / "out")], environment)
    copied = sorted((tmp_path / "out").iterdir())
    assert sorted(path.read_bytes() for path in copied) == [b"one", b"two!"]
    assert sum("-v2" in path.name for path in copied) == 1
    run([RCLONE, "delete", remote], environment)
    assert versioned.keys() == []
    run([RCLONE, "backend", "cleanup-hidden", remote], environment)
    assert lines(versioned) == []

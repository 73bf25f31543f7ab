"""CopyObject: bytes, metadata directives, odd names, errors."""

import hashlib

import pytest

from test_boto3_objects import refused


@pytest.fixture
def source(site, payload):
    site.put("source", payload(100_000), ContentType="text/x-source", CacheControl="no-store",
             Metadata={"kept": "yes"})
    return site


def copy(site, key, **more):
    more = {"CopySource": {"Bucket": "demo", "Key": "source"}} | more
    return site.s3.copy_object(Bucket="demo", Key=key, **more)["CopyObjectResult"]


def test_a_copy_is_the_same_object_elsewhere(source, payload):
    result = copy(source, "deep/er/copy")
    assert result["ETag"] == f'"{hashlib.md5(payload(100_000)).hexdigest()}"' and result["LastModified"]
    head = source.head("deep/er/copy")
    assert (head["ContentType"], head["CacheControl"], head["Metadata"], head["ETag"]) == (
        "text/x-source", "no-store", {"kept": "yes"}, result["ETag"])
    (source.directory / "source").unlink()
    assert source.read("deep/er/copy") == payload(100_000)


def test_replace_takes_the_headers_of_the_request(source):
    copy(source, "copy", MetadataDirective="REPLACE", ContentType="text/x-new",
         Metadata={"new": "1"})
    head = source.head("copy")
    assert head["ContentType"] == "text/x-new" and head["Metadata"] == {"new": "1"}
    assert "CacheControl" not in head


def test_headers_without_replace_are_ignored(source):
    copy(source, "copy", ContentType="text/x-new", Metadata={"new": "1"})
    head = source.head("copy")
    assert head["ContentType"] == "text/x-source" and head["Metadata"] == {"kept": "yes"}


def test_a_copy_onto_itself_changes_metadata_only_with_replace(source, payload):
    assert refused(copy, site=source, key="source")[:2] == (400, "InvalidRequest")
    etag = source.head("source")["ETag"]
    copy(source, "source", MetadataDirective="REPLACE", Metadata={"second": "life"})
    head = source.head("source")
    assert head["Metadata"] == {"second": "life"} and head["ETag"] == etag
    assert source.read("source") == payload(100_000)


def test_a_file_from_outside_can_be_copied(site):
    (site.directory / "outside.html").write_bytes(b"<p>")
    copy(site, "copy", CopySource="demo/outside.html")
    assert site.read("copy") == b"<p>"


@pytest.mark.parametrize("key", ["a b+c", "ü/ö", "per%20cent", "a@b", "a//b", "?query", "#hash"])
def test_odd_source_names(site, key):
    site.put(key, key.encode())
    copy(site, "copy", CopySource={"Bucket": "demo", "Key": key})
    assert site.read("copy") == key.encode()


@pytest.mark.parametrize("wanted, source", [
    ((404, "NoSuchKey"), "demo/missing"),
    ((404, "NoSuchBucket"), "nowhere/k"),
    ((400, "InvalidArgument"), "demo"),
])
def test_errors(site, wanted, source):
    assert refused(copy, site=site, key="copy", CopySource=source)[:2] == wanted
    assert site.keys() == []


def test_an_empty_object_and_a_large_one(site, payload):
    for size in (0, 12 << 20):
        site.put("k", payload(size))
        copy(site, "copy", CopySource="demo/k")
        assert site.read("copy") == payload(size)


def test_between_buckets(rooted):
    rooted.s3.create_bucket(Bucket="second")
    rooted.put("k", b"across")
    rooted.s3.copy_object(Bucket="second", Key="k", CopySource="demo/k")
    assert (rooted.directory.parent / "second" / "k").read_bytes() == b"across"

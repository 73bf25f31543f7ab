"""Tags of objects and buckets."""

import pytest
from botocore.exceptions import ClientError

import wire


def tag_set(**tags):
    return {"TagSet": [{"Key": key, "Value": value} for key, value in tags.items()]}


def tags_of(site, key):
    tags = site.s3.get_object_tagging(Bucket=site.bucket, Key=key)["TagSet"]
    return {tag["Key"]: tag["Value"] for tag in tags}


def refused(call, **arguments):
    with pytest.raises(ClientError) as error:
        call(**arguments)
    return error.value.response["Error"]["Code"]


def test_an_object_is_tagged_when_it_is_put(site):
    site.put("k", b"x", Tagging="a=1&b=x%20y&c=")
    assert tags_of(site, "k") == {"a": "1", "b": "x y", "c": ""}
    assert site.head("k")["ResponseMetadata"]["HTTPHeaders"]["x-amz-tagging-count"] == "3"
    assert site.get("k")["TagCount"] == 3
    site.put("k", b"x")
    assert tags_of(site, "k") == {}
    assert "TagCount" not in site.get("k")


def test_tags_come_back_ordered_by_key(site):
    site.put("k", b"x", Tagging="b=2&c=3&a=1")
    tags = site.s3.get_object_tagging(Bucket=site.bucket, Key="k")["TagSet"]
    assert [tag["Key"] for tag in tags] == ["a", "b", "c"]


def test_tags_are_replaced_and_deleted_and_nothing_else_changes(site):
    site.put("k", b"x", Metadata={"kept": "yes"}, ContentType="text/x")
    before = site.head("k")
    where = {"Bucket": site.bucket, "Key": "k"}
    site.s3.put_object_tagging(**where, Tagging=tag_set(a="1"))
    site.s3.put_object_tagging(**where, Tagging=tag_set(b="2", c="3"))
    assert tags_of(site, "k") == {"b": "2", "c": "3"}
    after = site.head("k")
    for name in ("ETag", "LastModified", "Metadata", "ContentType", "ContentLength"):
        assert after[name] == before[name]
    site.s3.delete_object_tagging(**where)
    assert tags_of(site, "k") == {}
    assert site.read("k") == b"x"


def test_tags_of_a_missing_key_are_no_such_key(site):
    where = {"Bucket": site.bucket, "Key": "missing"}
    assert refused(site.s3.get_object_tagging, **where) == "NoSuchKey"
    assert refused(site.s3.put_object_tagging, **where, Tagging=tag_set(a="1")) == "NoSuchKey"
    assert refused(site.s3.delete_object_tagging, **where) == "NoSuchKey"


def test_a_copy_takes_the_tags_along_or_brings_its_own(site):
    site.put("k", b"x", Tagging="a=1")
    source = {"Bucket": site.bucket, "Key": "k"}
    copy = site.s3.copy_object
    copy(Bucket=site.bucket, Key="same", CopySource=source, Tagging="ignored=1")
    assert tags_of(site, "same") == {"a": "1"}
    copy(Bucket=site.bucket, Key="other", CopySource=source, Tagging="b=2",
         TaggingDirective="REPLACE")
    assert tags_of(site, "other") == {"b": "2"}
    copy(Bucket=site.bucket, Key="none", CopySource=source, TaggingDirective="REPLACE")
    assert tags_of(site, "none") == {}
    copy(Bucket=site.bucket, Key="k", CopySource=source, MetadataDirective="REPLACE",
         Metadata={"new": "1"})
    assert tags_of(site, "k") == {"a": "1"}


def test_a_multipart_object_has_the_tags_of_its_upload(site):
    where = {"Bucket": site.bucket, "Key": "k"}
    upload = where | {"UploadId": site.s3.create_multipart_upload(**where, Tagging="a=1")["UploadId"]}
    etag = site.s3.upload_part(**upload, PartNumber=1, Body=b"x")["ETag"]
    parts = {"Parts": [{"PartNumber": 1, "ETag": etag}]}
    first = site.s3.complete_multipart_upload(**upload, MultipartUpload=parts)
    assert tags_of(site, "k") == {"a": "1"}
    # Tagging the object does not make the completion's repetition another request.
    site.s3.put_object_tagging(**where, Tagging=tag_set(b="2"))
    again = site.s3.complete_multipart_upload(**upload, MultipartUpload=parts)
    assert again["ETag"] == first["ETag"]


@pytest.mark.parametrize("tags", [
    {f"k{n}": "" for n in range(11)}, {"k" * 129: ""}, {"k": "v" * 257}, {"aws:k": ""}, {"a&b": ""},
])
def test_tags_over_the_limits_are_invalid(site, tags):
    site.put("k", b"x", Tagging="a=1")
    where = {"Bucket": site.bucket, "Key": "k"}
    assert refused(site.s3.put_object_tagging, **where, Tagging=tag_set(**tags)) == "InvalidTag"
    assert tags_of(site, "k") == {"a": "1"}


def test_a_header_of_tags_that_cannot_be_read_stores_nothing(site):
    for header, code in [("a=%ff", "InvalidArgument"), ("a=1&a=2", "InvalidTag")]:
        answer = wire.signed(site.server, "PUT", "/demo/k", headers={"x-amz-tagging": header})
        assert answer.code == code
    assert site.keys() == []


def test_a_document_of_tags_is_read_strictly(site):
    site.put("k", b"x")
    for body in [b"", b"<Tagging/>", b"<Tagging><TagSet><Tag><Key>a</Key></Tag></TagSet></Tagging>",
                 b"<Tagging><TagSet/><Other/></Tagging>"]:
        answer = wire.signed(site.server, "PUT", "/demo/k", "tagging=", body=body)
        assert answer.code == "MalformedXML", body


def test_a_bucket_has_tags_of_its_own(rooted):
    s3, bucket = rooted.s3, rooted.bucket
    assert refused(s3.get_bucket_tagging, Bucket=bucket) == "NoSuchTagSet"
    tags = {f"k{n}": str(n) for n in range(50)}
    s3.put_bucket_tagging(Bucket=bucket, Tagging=tag_set(**tags))
    got = s3.get_bucket_tagging(Bucket=bucket)["TagSet"]
    assert {tag["Key"]: tag["Value"] for tag in got} == tags
    many = tag_set(**tags, one="more")
    assert refused(s3.put_bucket_tagging, Bucket=bucket, Tagging=many) == "InvalidTag"
    s3.delete_bucket_tagging(Bucket=bucket)
    s3.delete_bucket_tagging(Bucket=bucket)
    assert refused(s3.get_bucket_tagging, Bucket=bucket) == "NoSuchTagSet"


def test_a_directory_that_is_served_keeps_its_bucket_tags(start, tmp_path):
    (tmp_path / "demo").mkdir()
    for expected in ([], [{"Key": "a", "Value": "1"}]):
        server = start("serve", tmp_path / "demo", "--listen", "127.0.0.1:0", "--state-dir",
                       tmp_path / "state")
        s3 = server.client()
        if not expected:
            s3.put_bucket_tagging(Bucket="demo", Tagging=tag_set(a="1"))
        else:
            assert s3.get_bucket_tagging(Bucket="demo")["TagSet"] == expected
        server.stop()

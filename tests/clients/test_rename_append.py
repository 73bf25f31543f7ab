"""RenameObject, and PutObject at an offset, through boto3."""

import json
import os
import threading
from urllib.parse import quote

import pytest
from botocore.exceptions import ClientError

from test_sse_c import refused, sse

DAY = 86_400


def rename(site, source, key, **more):
    return site.s3.rename_object(Bucket=site.bucket, Key=key, RenameSource=quote(source), **more)


def append(site, key, body, offset, **more):
    return site.put(key, body, WriteOffsetBytes=offset, **more)


def test_an_object_gets_another_key_with_all_it_has(site):
    keys = ["a", "dir/er/b", "a//b", "dir", "é %+", ".."]
    made = site.put(keys[0], b"data", Metadata={"a": "b"}, Tagging="c=d", ContentType="text/x")
    for source, key in zip(keys, keys[1:] + keys[:1]):
        rename(site, source, key)
        got = site.get(key)
        assert (got["Body"].read(), got["Metadata"], got["ContentType"], got["TagCount"]) == (
            b"data", {"a": "b"}, "text/x", 1)
        assert got["ETag"] == made["ETag"] and site.keys() == [key]
    site.put("b", b"replaced")
    rename(site, f"/{site.bucket}/a", "b")
    assert site.keys() == ["b"] and site.read("b") == b"data"
    assert refused(rename, site=site, source="a", key="c") == (404, "NoSuchKey")
    assert refused(rename, site=site, source="b", key="b") == (400, "InvalidArgument")
    site.put("sealed", b"secret", **sse())
    rename(site, "sealed", "dir/sealed")
    assert site.read("dir/sealed", **sse()) == b"secret"
    assert site.keys() == ["b", "dir/sealed"]


def test_a_rename_has_conditions_on_both_ends(site):
    source, target = site.put("a", b"a")["ETag"], site.put("b", b"b")["ETag"]
    later = site.head("a")["LastModified"].timestamp() + DAY
    for conditions in ({"DestinationIfNoneMatch": "*"}, {"DestinationIfMatch": source},
                       {"SourceIfMatch": target}, {"SourceIfNoneMatch": source},
                       {"SourceIfNoneMatch": "*"}, {"SourceIfModifiedSince": later},
                       {"SourceIfUnmodifiedSince": later - 3 * DAY},
                       {"DestinationIfModifiedSince": later},
                       {"DestinationIfUnmodifiedSince": later - 3 * DAY}):
        assert refused(rename, site=site, source="a", key="b", **conditions) == (
            412, "PreconditionFailed"), conditions
    assert refused(rename, site=site, source="a", key="c", DestinationIfMatch="*")[0] == 412
    assert (site.read("a"), site.read("b")) == (b"a", b"b")
    rename(site, "a", "b", SourceIfMatch=source, DestinationIfMatch=target)
    rename(site, "b", "c", DestinationIfNoneMatch="*", SourceIfUnmodifiedSince=later)
    assert site.keys() == ["c"] and site.read("c") == b"a"


def test_of_racing_renames_to_one_key_each_source_is_there_once(site):
    count = 8
    for n in range(count):
        site.put(f"from-{n}", b"%d" % n)
    won = []

    def go(n):
        try:
            rename(site, f"from-{n}", "to", DestinationIfNoneMatch="*")
            won.append(n)
        except ClientError as error:
            assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 412

    threads = [threading.Thread(target=go, args=(n,)) for n in range(count)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    [winner] = won
    assert site.read("to") == b"%d" % winner
    assert len(site.keys()) == count and f"from-{winner}" not in site.keys()


def test_bytes_are_appended_where_the_object_ends(site, payload):
    data = payload(300_000)
    first = append(site, "log", data[:100], 0, Metadata={"a": "b"})
    assert append(site, "log", data[100:200_000], 100)["Size"] == 200_000
    last = append(site, "log", data[200_000:], 200_000)
    got = site.get("log", ChecksumMode="ENABLED")
    assert got["Body"].read() == data and got["Metadata"] == {"a": "b"}
    assert got["ETag"] == last["ETag"] != first["ETag"]
    assert got["ChecksumCRC32"] == last["ChecksumCRC32"], "joined from those of the pieces"
    for offset in (0, 1, len(data) - 1, len(data) + 1):
        assert refused(append, site=site, key="log", body=b"x", offset=offset) == (
            400, "InvalidWriteOffset")
    assert refused(append, site=site, key="none", body=b"x", offset=5) == (404, "NoSuchKey")
    assert refused(append, site=site, key="log", body=b"x", offset=len(data), IfMatch='"x"')[0] == 412
    assert site.read("log") == data


def test_what_cannot_be_appended_to_is_said(site):
    site.put("sealed", b"secret", **sse())
    upload = {"Bucket": site.bucket, "Key": "parts"}
    upload["UploadId"] = site.s3.create_multipart_upload(**upload)["UploadId"]
    part = site.s3.upload_part(**upload, PartNumber=1, Body=b"part")["ETag"]
    site.s3.complete_multipart_upload(
        **upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part}]})
    site.put("plain", b"plain")
    for key, size, more in (("sealed", 6, {}), ("parts", 4, {}), ("plain", 5, sse())):
        assert refused(append, site=site, key=key, body=b"x", offset=size, **more) == (
            501, "NotImplemented"), key
    assert site.read("plain") == b"plain"


def test_an_append_that_asks_for_what_it_leaves_alone_is_refused(site):
    site.put("k", b"one")
    for more in ({"Tagging": "a=b"}, {"ACL": "private"},
                 {"ObjectLockLegalHoldStatus": "ON"}):
        assert refused(append, site=site, key="k", body=b"x", offset=3, **more)[0] == 400, more
    assert site.read("k") == b"one"


@pytest.fixture
def shared(start, tmp_path):
    """What a bucket of ann's is to bob, by a policy of allowed actions under prefixes."""
    config = '[server]\nlisten = "127.0.0.1:0"\n[filesystem]\nroot = "buckets"\n'
    for name in ("ann", "bob"):
        config += f'[[auth.user]]\nname = "{name}"\n'
        config += f'access_key = "{name}accesskey"\nsecret_key = "secret-of-{name}"\n'
    (tmp_path / "lobos.cfg").write_text(config)
    server = start("-c", tmp_path / "lobos.cfg")
    ann, bob = (server.client(access_key=f"{name}accesskey", secret_key=f"secret-of-{name}")
                for name in ("ann", "bob"))
    ann.create_bucket(Bucket="demo")
    statements = [{"Effect": "Allow", "Principal": {"AWS": "bob"}, "Action": actions,
                   "Resource": f"arn:aws:s3:::demo/{prefix}*"} for prefix, actions in (
        ("own/", ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"]),
        ("secret/", ["s3:PutObject"]))]
    ann.put_bucket_policy(Bucket="demo", Policy=json.dumps(
        {"Version": "2012-10-17", "Statement": statements}))
    return ann, bob


def test_renames_and_appends_tell_and_give_nothing_beyond_permissions(shared):
    ann, bob = shared
    secret = ann.put_object(Bucket="demo", Key="secret/k", Body=b"hidden")["ETag"]
    ann.put_object(Bucket="demo", Key="own/tagged", Body=b"x", Tagging="role=admin")
    bob.put_object(Bucket="demo", Key="own/a", Body=b"mine")
    denied = (403, "AccessDenied")
    for offset in (0, 5, 6):
        for key in ("secret/k", "secret/none"):
            assert refused(bob.put_object, Bucket="demo", Key=key, Body=b"",
                           WriteOffsetBytes=offset) == denied, (key, offset)
    for conditions in ({"DestinationIfMatch": secret}, {"DestinationIfMatch": '"other"'},
                       {"DestinationIfNoneMatch": secret}):
        assert refused(bob.rename_object, Bucket="demo", Key="secret/k", RenameSource="own/a",
                       **conditions) == denied, conditions
    assert refused(bob.rename_object, Bucket="demo", Key="own/b",
                   RenameSource="own/tagged") == denied
    bob.rename_object(Bucket="demo", Key="secret/new", RenameSource="own/a",
                      DestinationIfNoneMatch="*")
    assert ann.get_object(Bucket="demo", Key="secret/new")["Body"].read() == b"mine"


def test_two_names_of_one_file_are_no_rename(site):
    site.plain_files()
    site.put("a", b"data")
    os.link(site.directory / "a", site.directory / "b")
    assert refused(rename, site=site, source="a", key="b")[0] == 501
    assert site.keys() == ["a", "b"]


def test_of_racing_appends_at_one_place_one_succeeds(site):
    site.put("log", b"")
    won = []

    def go(n):
        try:
            append(site, "log", b"%d" % n, 0)
            won.append(n)
        except ClientError as error:
            assert error.response["Error"]["Code"] == "InvalidWriteOffset"

    threads = [threading.Thread(target=go, args=(n,)) for n in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert [b"%d" % n for n in won] == [site.read("log")]

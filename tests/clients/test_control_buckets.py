"""What an operator says of buckets while the server runs: settings, quotas, checks."""

import json
import mmap
import os
import re

import pytest
from botocore.exceptions import ClientError

from controlled import Controlled, in_terminal, refused, site_error
from lobos import BINARY, clean_environment, run

MIB = 1 << 20


@pytest.fixture(params=["fs", "blob"])
def place(request, start, tmp_path, image):
    """A site, and the name of a bucket that is on this engine."""
    store = f'[blob]\npath = "{image}"\nsize = "96 MiB"'
    return again(request.param, start, tmp_path, store)


def again(engine, start, tmp_path, store):
    site = Controlled(start, tmp_path, auth=store)
    site.bucket = {"fs": "data", "blob": "lobos"}[engine]
    site.again = lambda: again(engine, start, tmp_path, store)
    return site


def test_settings_count_for_the_next_request_and_stay(place):
    site, bucket = place, place.bucket
    site.add("ann", "--policy", "none")
    before = site.json("bucket", "info", bucket)
    assert (before["durability"], before["etag"], before["owner"]) == ("strict", "md5", "root")
    assert before["quota_bytes"] is None
    site.ctl("bucket", "set", bucket, "--durability", "relaxed", "--quota", "10MiB")
    after = site.json("bucket", "set", bucket, "--etag", "fast", "--owner", "ann")
    wanted = {"durability": "relaxed", "etag": "fast", "owner": "ann", "quota_bytes": 10 * MIB}
    assert wanted.items() <= after.items()
    s3 = site.server.client()
    assert s3.put_object(Bucket=bucket, Key="k", Body=b"1")["ETag"].endswith('-10002"')
    site.server.stop()
    site = site.again()
    assert wanted.items() <= site.json("bucket", "info", bucket).items()
    s3 = site.server.client()
    assert s3.put_object(Bucket=bucket, Key="k", Body=b"1")["ETag"].endswith('-10002"')
    site.ctl("bucket", "set", bucket, "--durability", "server", "--etag", "server", "--quota", "0")
    after = site.json("bucket", "set", bucket, "--owner", "root")
    assert {**after, "quota_used_bytes": None} == before
    assert s3.put_object(Bucket=bucket, Key="k", Body=b"1")["ETag"] == '"c4ca4238a0b923820dcc509a6f75849b"'


def test_the_new_owner_may_do_everything_with_the_bucket_and_the_old_one_nothing(site_of_two):
    site, ann, bob = site_of_two
    ann.put_object(Bucket="shared", Key="k", Body=b"1")
    assert refused(bob.get_object, Bucket="shared", Key="k") == "AccessDenied"
    site.ctl("bucket", "set", "shared", "--owner", "bob")
    bob.get_object(Bucket="shared", Key="k")
    assert refused(ann.get_object, Bucket="shared", Key="k") == "AccessDenied"
    assert "no user" in site_error(site, "bucket", "set", "shared", "--owner", "nobody")
    assert site.json("bucket", "info", "shared")["owner"] == "bob"


@pytest.fixture
def site_of_two(start, tmp_path):
    site = Controlled(start, tmp_path)
    ann, bob = (site.add(name, "--policy", "none")[1] for name in ("ann", "bob"))
    site.ctl("bucket", "create", "shared", "--owner", "ann")
    return site, ann, bob


def test_a_setting_that_makes_no_sense_is_refused_and_changes_nothing(place):
    before = place.json("bucket", "info", place.bucket)
    for wrong in [["--etag", "sha"], ["--durability", "never"], ["--quota", "many"], []]:
        site_error(place, "bucket", "set", place.bucket, *wrong, status=2)
    site_error(place, "bucket", "set", "nothing", "--quota", "1")
    # One part of several is wrong: none is done.
    site_error(place, "bucket", "set", place.bucket, "--quota", "1", "--owner", "nobody")
    assert place.json("bucket", "info", place.bucket) == before


def test_a_quota_holds_for_every_way_to_write(place):
    site, bucket = place, place.bucket
    s3 = site.server.client()
    s3.put_object(Bucket=bucket, Key="old", Body=b"x" * 400)
    site.ctl("bucket", "set", bucket, "--quota", "1000")
    over = {"Bucket": bucket, "Key": "over", "Body": b"x" * 601}
    assert refused(s3.put_object, **over) == "QuotaExceeded"
    with pytest.raises(ClientError) as error:
        s3.put_object(**over)
    assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    s3.put_object(Bucket=bucket, Key="full", Body=b"x" * 600)
    assert site.json("bucket", "info", bucket)["quota_used_bytes"] == 1000
    for call, more in [
        (s3.put_object, {"Key": "one", "Body": b"x"}),
        (s3.copy_object, {"Key": "two", "CopySource": f"{bucket}/old"}),
    ]:
        assert refused(call, Bucket=bucket, **more) == "QuotaExceeded"
    # What takes no room is always let in.
    s3.put_object(Bucket=bucket, Key="nothing", Body=b"")
    # Room that a delete made is there at once.
    s3.delete_object(Bucket=bucket, Key="full")
    s3.copy_object(Bucket=bucket, Key="copy", CopySource=f"{bucket}/old")
    in_parts(s3, bucket, 200)
    assert refused(s3.put_object, Bucket=bucket, Key="one", Body=b"x") == "QuotaExceeded"
    s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "parts"}, {"Key": "copy"}]})
    with pytest.raises(ClientError, match="QuotaExceeded"):
        in_parts(s3, bucket, 601)
    in_parts(s3, bucket, 600)
    assert site.json("bucket", "info", bucket)["quota_used_bytes"] == 1000
    site.ctl("bucket", "set", bucket, "--quota", "0")
    s3.put_object(**over)


def in_parts(s3, bucket, size):
    upload = {"Bucket": bucket, "Key": "parts"}
    upload["UploadId"] = s3.create_multipart_upload(**upload)["UploadId"]
    etag = s3.upload_part(**upload, PartNumber=1, Body=b"x" * size)["ETag"]
    s3.complete_multipart_upload(
        **upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etag}]})


def test_a_quota_counts_what_others_put_there_and_every_version(start, tmp_path):
    site = Controlled(start, tmp_path)
    (tmp_path / "data" / "foreign").write_bytes(b"x" * 700)
    site.ctl("bucket", "set", "data", "--quota", "1000")
    s3 = site.server.client()
    assert refused(s3.put_object, Bucket="data", Key="k", Body=b"x" * 301) == "QuotaExceeded"
    s3.put_bucket_versioning(Bucket="data", VersioningConfiguration={"Status": "Enabled"})
    for _ in range(3):
        s3.put_object(Bucket="data", Key="k", Body=b"x" * 100)
    assert refused(s3.put_object, Bucket="data", Key="k", Body=b"x") == "QuotaExceeded"


def test_writes_at_once_never_exceed_a_quota(place):
    from concurrent.futures import ThreadPoolExecutor
    site, bucket = place, place.bucket
    s3 = site.server.client()
    site.ctl("bucket", "set", bucket, "--quota", "1000")

    def put(number):
        try:
            s3.put_object(Bucket=bucket, Key=f"k{number}", Body=b"x" * 300)
            return 1
        except ClientError as error:
            assert error.response["Error"]["Code"] == "QuotaExceeded"
            return 0

    with ThreadPoolExecutor(8) as pool:
        done = sum(pool.map(put, range(24)))
    assert done == 3


def test_a_check_reads_everything_and_names_what_is_damaged(place, image):
    site, bucket = place, place.bucket
    s3 = site.server.client()
    marker = os.urandom(64)
    s3.put_object(Bucket=bucket, Key="small", Body=b"abc", ChecksumAlgorithm="SHA256")
    s3.put_object(Bucket=bucket, Key="large", Body=marker + os.urandom(MIB))
    in_parts(s3, bucket, 5000)
    found = site.json("check")
    assert (found["state"], found["objects"], found["damaged"]) == ("done", 3, 0)
    assert found["bytes"] == 3 + 64 + MIB + 5000
    shown = in_terminal(site, "check", "--bucket", bucket)
    assert re.search(r"^state\s+done", shown, re.M) and re.search(r"^objects\s+3\b", shown, re.M)
    flip(site, image, marker)
    failed = site_error(site, "check")
    assert "1 objects are damaged" in failed or "1 object" in failed
    last = json.loads(run([BINARY, "ctl", "--address", site.address, "check", "--watch", "--json"],
                          clean_environment(site.home), status=1))
    assert [(d["bucket"], d["key"]) for d in last["damages"]] == [(bucket, "large")]
    assert last["id"] == 3 and last["objects"] == 3
    assert "no check goes on" in site_error(site, "check", "--stop")
    if site.bucket == "lobos":
        site.server.log.write_text("")  # damage is an error there, and meant


def flip(site, image, marker):
    """Changes a byte of the large object behind the server's back, in a way that a program that
    edits a file does not: neither its size nor its time changes."""
    path = image if site.bucket == "lobos" else site.home / "data" / "large"
    before = path.stat()
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as bytes_:
        at = bytes_.find(marker)
        assert at >= 0
        bytes_[at] ^= 1
        bytes_.flush()
        os.fsync(file.fileno())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_the_blob_store_tells_its_state_and_writes_checkpoints(start, tmp_path, image):
    site = Controlled(start, tmp_path, auth=f'[blob]\npath = "{image}"\nsize = "64 MiB"')
    s3 = site.server.client()
    for number in range(30):
        s3.put_object(Bucket="lobos", Key=f"k{number}", Body=b"x" * 10_000)
    store = site.json("info")["store"]
    assert store["size_bytes"] == 64 * MIB and store["objects"] == 30 and store["buckets"] == 1
    assert 0 < store["free_bytes"] < 64 * MIB and 0 <= store["fragmentation"] <= 1
    assert 0 < store["journal_used_bytes"] < store["journal_bytes"]
    assert store["read_only"] is False
    done = site.json("checkpoint")
    assert done["journal_after_bytes"] < done["journal_before_bytes"]
    assert site.json("info")["store"]["checkpoint_bytes"] > 0
    assert re.search(r"^blob store", in_terminal(site, "info"), re.M)
    assert s3.get_object(Bucket="lobos", Key="k7")["Body"].read() == b"x" * 10_000


def test_a_server_of_a_blob_store_alone_is_controlled_as_any(start, tmp_path, image):
    config = tmp_path / "lobos.cfg"
    config.write_text(f"""
        [server]
        listen = "127.0.0.1:0"
        [blob]
        path = "{image}"
        size = "64 MiB"
        [control]
        listen = "127.0.0.1:0"
    """)
    site = Controlled.__new__(Controlled)
    site.home, site.server = tmp_path, start("-c", config)
    site.address = re.search(r"^control: (\S+)$", site.server.printed(), re.M)[1]
    info = site.json("info")
    assert info["store"]["durability"] == "strict" and info["mounts"] == []
    pair, s3 = site.add("ann")
    assert pair["backend"] == "lobos"
    s3.put_object(Bucket="lobos", Key="k", Body=b"1")
    site.ctl("bucket", "create", "fresh", "--owner", "ann")
    s3.put_object(Bucket="fresh", Key="k", Body=b"1")
    assert site.json("bucket", "set", "fresh", "--quota", "5")["quota_bytes"] == 5
    assert site.json("check")["objects"] == 2

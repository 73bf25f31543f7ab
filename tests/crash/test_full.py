"""Disks that are full, closed, gone, or changed by others."""

import http.client
import os
import shutil
import time

import pytest

from model import bytes_of, etag_of, until
from volume import do

NOBODY = 65534
MIB = 1 << 20


def whole(client, kept):
    """Every object of `kept` (key -> body) is there and whole, and no other is listed."""
    for key, body in kept.items():
        answer = client.get(key)
        assert (answer.status, answer.body == body) == (200, True), (key, answer.status)
        assert answer.headers["ETag"] == etag_of(body)
    assert set(client.keys()) == set(kept)


def fill(client, kept, sizes, limit=100_000):
    """PUTs until the disk is full; gives the answers of the last ones."""
    for number in range(len(kept), limit):
        body = bytes_of(number, sizes[number % len(sizes)])
        answer = client.put(f"fill/{number}", body)
        if answer.status != 200:
            return answer
        kept[f"fill/{number}"] = body
    raise AssertionError("it was never full")


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_p8_a_full_disk_refuses_writes_and_serves_on(serve, volume, report, kind):
    makers = {"ext4": (["mkfs.ext4", "-q", "-F"], 64), "xfs": (["mkfs.xfs", "-q", "-f"], 300)}
    disk = volume(*makers[kind])
    if kind == "xfs":
        # The smallest XFS is larger than it needs to be.
        room = shutil.disk_usage(disk.mountpoint).free - 60 * MIB
        do("fallocate", "-l", room, disk.mountpoint / "ballast")
    bucket = disk.mountpoint / "bucket"
    bucket.mkdir()
    client, kept = serve(bucket).client(), {}
    upload = client.ask("POST", "joined", "uploads").field("UploadId")
    first = client.ask("PUT", "joined", f"partNumber=1&uploadId={upload}", {}, bytes_of(1, 5 * MIB))
    assert first.status == 200
    refusals = []
    for sizes in [[3 * MIB, 70_000], [300_000], [40_000], [4000]]:
        answer = fill(client, kept, sizes)
        assert (answer.status, answer.code) == (507, "InsufficientStorage"), answer
        refusals.append(answer.code)
    part = client.ask("PUT", "joined", f"partNumber=2&uploadId={upload}", {}, bytes_of(2, 5 * MIB))
    assert (part.status, part.code) == (507, "InsufficientStorage"), part
    over = next(key for key, body in kept.items() if len(body) > MIB)
    answer = client.put(over, bytes_of(99, 4 * MIB))
    assert answer.status == 507, answer
    whole(client, kept)
    # DELETE needs no space, and gives some.
    for key in [key for key in kept if len(kept[key]) > MIB][:4]:
        assert client.delete(key).status == 204
        del kept[key]
    whole(client, kept)
    assert client.put("after", bytes_of(5, 6 * MIB)).status == 200
    kept["after"] = bytes_of(5, 6 * MIB)
    document = (f"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber>"
                f"<ETag>{first.headers['ETag']}</ETag></Part></CompleteMultipartUpload>").encode()
    done = client.ask("POST", "joined", f"uploadId={upload}", {}, document)
    assert done.status == 200, done
    assert client.get("joined").body == bytes_of(1, 5 * MIB)
    assert client.delete("joined").status == 204
    whole(client, kept)
    for key in list(kept):
        assert client.delete(key).status == 204
    used = until(lambda: shutil.disk_usage(bucket).free > 50 * MIB)
    assert used, f"space leaked: {shutil.disk_usage(bucket)}"
    report(f"{kind}: full {len(refusals)} times, {len(kept)} objects stayed whole")


def test_p8_no_inodes_left(serve, volume):
    disk = volume(["mkfs.ext4", "-q", "-F", "-N", "256"], 64)
    bucket = disk.mountpoint / "bucket"
    bucket.mkdir()
    client, kept = serve(bucket).client(), {}
    answer = fill(client, kept, [10])
    assert (answer.status, answer.code) == (507, "InsufficientStorage"), answer
    assert client.put("new/directory/key", b"1").status == 507
    assert client.ask("POST", "joined", "uploads").status == 507
    whole(client, kept)
    for key in list(kept)[:20]:
        assert client.delete(key).status == 204
        del kept[key]
    assert client.put("new/directory/key", b"1").status == 200
    kept["new/directory/key"] = b"1"
    whole(client, kept)


def test_p8_a_quota_is_a_full_disk(serve, volume):
    if shutil.which("xfs_quota") is None:
        pytest.skip("needs xfs_quota")
    try:
        disk = volume(["mkfs.ext4", "-q", "-F", "-O", "quota"], 64, "loop,usrquota")
    except AssertionError as error:
        pytest.skip(f"this kernel has no quotas for ext4: {str(error)[-60:]}")
    bucket = disk.mountpoint / "bucket"
    bucket.mkdir()
    os.chown(bucket, NOBODY, NOBODY)
    do("xfs_quota", "-f", "-x", "-c", f"limit -u bhard=20m {NOBODY}", disk.mountpoint)
    with reachable(bucket):
        client, kept = serve(bucket, uid=NOBODY).client(), {}
        answer = fill(client, kept, [3 * MIB])
        assert (answer.status, answer.code) == (507, "InsufficientStorage"), answer
        assert len(kept) in range(3, 8)
        whole(client, kept)
        key = next(iter(kept))
        assert client.delete(key).status == 204
        del kept[key]
        assert client.put("again", kept["fill/1"]).status == 200
        kept["again"] = kept["fill/1"]
        whole(client, kept)


class reachable:
    """Lets other users pass through the directories above `path`, as far as they are the test's."""

    def __init__(self, path):
        self.opened = [(parent, parent.stat().st_mode) for parent in [path, *path.parents]
                       if parent.stat().st_uid == 0 and not parent.stat().st_mode & 0o001]

    def __enter__(self):
        for path, mode in self.opened:
            path.chmod(mode | 0o011)

    def __exit__(self, *_):
        for path, mode in self.opened:
            if path.exists():
                path.chmod(mode)


@pytest.fixture
def nobody(serve, bucket, tmp_path):
    """`nobody()`: the bucket served by a user without rights, who owns it."""
    if os.geteuid() != 0:
        pytest.skip("needs root to run the server as another user")
    os.chown(bucket, NOBODY, NOBODY)
    with reachable(bucket):
        yield lambda: serve(bucket, uid=NOBODY)


def test_permission_denied_is_403_and_names_the_key_and_not_the_path(nobody, bucket):
    (bucket / "closed").write_bytes(b"1")
    (bucket / "closed").chmod(0)
    (bucket / "shut").mkdir()
    (bucket / "shut" / "inside").write_bytes(b"1")
    (bucket / "shut").chmod(0)
    (bucket / "fixed").mkdir()
    (bucket / "fixed" / "key").write_bytes(b"theirs")
    (bucket / "fixed").chmod(0o755)
    (bucket / "open").write_bytes(b"open")
    server = nobody()
    client = server.client()
    requests = [("GET", "closed"), ("GET", "shut/inside"), ("PUT", "shut/inside"),
                ("DELETE", "shut/inside"), ("PUT", "fixed/key"), ("PUT", "fixed/new"),
                ("DELETE", "fixed/key")]
    for method, key in requests:
        answer = client.ask(method, key, "", {}, b"x" if method == "PUT" else b"")
        assert (answer.status, answer.code) == (403, "AccessDenied"), (method, key, answer)
        assert key.encode() in answer.body and str(bucket).encode() not in answer.body
    assert client.get("open").body == b"open"
    assert client.put("other", b"1").status == 200
    assert (bucket / "fixed" / "key").read_bytes() == b"theirs"
    assert [path.name for path in (bucket / "fixed").iterdir()] == ["key"]
    # A directory that cannot be read makes no key vanish silently from a page that includes it.
    listed = client.ask("GET", "", "list-type=2&delimiter=/")
    assert listed.status == 200 and b"<Key>open</Key>" in listed.body, listed


def test_a_directory_that_cannot_be_written_is_served(nobody, bucket):
    (bucket / "key").write_bytes(b"theirs")
    os.chown(bucket, 0, 0)
    bucket.chmod(0o755)
    client = nobody().client()
    assert client.get("key").body == b"theirs"
    assert client.keys() == ["key"]
    for answer in [client.put("key", b"1"), client.put("a/b", b"1"), client.delete("key"),
                   client.ask("POST", "key", "uploads")]:
        assert (answer.status, answer.code) == (403, "AccessDenied"), answer
    assert client.get("key").body == b"theirs"
    assert [path.name for path in bucket.iterdir()] == ["key"]


def test_a_file_system_that_is_mounted_read_only_is_served(serve, volume):
    disk = volume(["mkfs.ext4", "-q", "-F"], 64)
    bucket = disk.mountpoint / "bucket"
    bucket.mkdir()
    server = serve(bucket)
    client = server.client()
    assert client.put("key", b"1").status == 200
    assert client.put("key", b"2").status == 200
    # Not while a file is open for writing.
    server.kill()
    do("mount", "-o", "remount,ro", disk.mountpoint)
    client = serve(bucket).client()
    for answer in [client.put("key", b"3"), client.delete("key"), client.put("new/key", b"3"),
                   client.ask("POST", "key", "uploads")]:
        assert (answer.status, answer.code) == (503, "ServiceUnavailable"), answer
    assert client.get("key").body == b"2"
    assert client.keys() == ["key"]
    do("mount", "-o", "remount,rw", disk.mountpoint)
    assert client.put("key", b"3").status == 200


def test_a_bucket_whose_directory_vanished_is_503_until_it_is_back(serve, bucket):
    client = serve(bucket).client()
    assert client.put("key", b"1").status == 200
    away = bucket.with_name("away")
    bucket.rename(away)
    for answer in [client.put("key", b"2"), client.delete("key"), client.get("missing"),
                   client.ask("POST", "key", "uploads")]:
        assert (answer.status, answer.code) == (503, "ServiceUnavailable"), answer
    assert (away / "key").read_bytes() == b"1"
    bucket.mkdir()
    # Another directory of that name is not the bucket that was opened.
    assert client.put("key", b"2").status == 503
    assert list(bucket.iterdir()) == []
    bucket.rmdir()
    away.rename(bucket)
    assert client.put("key", b"2").status == 200
    assert client.get("key").body == b"2"
    shutil.rmtree(bucket)
    assert client.put("key", b"3").status == 503
    assert not bucket.exists()


def test_p2_an_object_replaced_while_it_is_read_keeps_its_old_bytes(serve, bucket):
    client = serve(bucket).client()
    old, new = bytes_of(1, 30 * MIB), bytes_of(2, 30 * MIB)
    changes = {
        "put": lambda: client.put("key", new),
        "delete": lambda: client.delete("key"),
        "rename": lambda: replace_by_rename(bucket, new),
    }
    for name, change in changes.items():
        assert client.put("key", old).status == 200
        slow = SlowReader(client.port, "key")
        change()
        assert slow.rest() == old, name


def replace_by_rename(bucket, body):
    (bucket / "next").write_bytes(body)
    (bucket / "next").rename(bucket / "key")


def test_a_file_rewritten_in_place_while_it_is_read_aborts_the_connection(serve, bucket):
    client = serve(bucket).client()
    body = bytes_of(1, 30 * MIB)

    def rewrite(path):
        with path.open("r+b") as file:
            file.write(b"other bytes")

    changes = {
        "rewritten": rewrite,
        "cut": lambda path: os.truncate(path, 20 * MIB),
        "emptied": lambda path: os.truncate(path, 0),
        "longer": lambda path: path.open("ab").write(b"more"),
    }
    for name, change in changes.items():
        (bucket / name).write_bytes(body)
        slow = SlowReader(client.port, name)
        change(bucket / name)
        with pytest.raises((http.client.HTTPException, OSError)):
            slow.rest()
        # The next request gets what is there now.
        assert client.get(name).body == (bucket / name).read_bytes()


class SlowReader:
    """A GET that has its head and the first bytes, and takes the rest later."""

    def __init__(self, port, key):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self.connection.request("GET", f"/data/{key}")
        self.reply = self.connection.getresponse()
        assert self.reply.status == 200
        self.first = self.reply.read(1000)
        time.sleep(0.05)

    def rest(self):
        try:
            return self.first + self.reply.read()
        finally:
            self.connection.close()

"""rclone, as a remote of type s3 with the provider `Other`."""

import shutil
from pathlib import Path

import pytest

from lobos import clean_environment, run

RCLONE = shutil.which("rclone")
pytestmark = pytest.mark.skipif(RCLONE is None, reason="rclone is not installed")
MIB = 1 << 20


@pytest.fixture
def rclone(rooted, tmp_path):
    environment = clean_environment(tmp_path) | {
        "RCLONE_CONFIG": "/notfound",
        "RCLONE_CONFIG_LOBOS_TYPE": "s3",
        "RCLONE_CONFIG_LOBOS_PROVIDER": "Other",
        "RCLONE_CONFIG_LOBOS_ENDPOINT": rooted.server.endpoint,
        "RCLONE_CONFIG_LOBOS_ACCESS_KEY_ID": rooted.server.access_key,
        "RCLONE_CONFIG_LOBOS_SECRET_ACCESS_KEY": rooted.server.secret_key,
        "RCLONE_RETRIES": "1",
        "RCLONE_LOW_LEVEL_RETRIES": "1",
        "RCLONE_S3_UPLOAD_CUTOFF": "8M",
        "RCLONE_S3_CHUNK_SIZE": "5M",
    }
    return lambda *arguments, **more: run([RCLONE, *arguments], environment, cwd=tmp_path, **more)


@pytest.fixture
def tree(tmp_path, payload):
    source = tmp_path / "source"
    files = {"a.txt": b"a", "empty": b"", "deep/er/file name.txt": b"x", "ü/+%@.txt": b"odd",
             "large.bin": payload(23 * MIB)}
    for name, data in files.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(data)
    return source, files


def test_copy_and_check(rooted, rclone, tree):
    source, files = tree
    rclone("copy", source, "lobos:demo/tree")
    assert {n: (rooted.directory / "tree" / n).read_bytes() for n in files} == files
    rclone("check", "--download", source, "lobos:demo/tree")
    rclone("check", source, "lobos:demo/tree")
    (rooted.directory / "tree" / "a.txt").write_bytes(b"b")
    rclone("check", "--download", source, "lobos:demo/tree", status=1)


def test_sync_both_ways_keeps_times(rooted, rclone, tree, tmp_path):
    source, files = tree
    rclone("sync", source, "lobos:demo/tree")
    assert "There was nothing to transfer" in combined(rclone, "sync", source, "lobos:demo/tree")
    (source / "a.txt").unlink()
    rclone("sync", source, "lobos:demo/tree")
    assert not (rooted.directory / "tree" / "a.txt").exists()
    rclone("sync", "lobos:demo/tree", tmp_path / "back")
    assert (tmp_path / "back" / "large.bin").read_bytes() == files["large.bin"]
    ours, theirs = (path.stat().st_mtime for path in (
        source / "large.bin", tmp_path / "back" / "large.bin"))
    assert abs(ours - theirs) < 0.001, "x-amz-meta-mtime came back"


def combined(rclone, *arguments):
    """What rclone logs, which goes to a file here."""
    rclone(*arguments, "-v", "--log-file", "rclone.log")
    return (Path(arguments[1]).parent / "rclone.log").read_text()


def test_server_side_copy_and_move(rooted, rclone, tree):
    source, files = tree
    rclone("copy", source, "lobos:demo/tree")
    rclone("copy", "lobos:demo/tree", "lobos:demo/copied")
    rclone("check", "--download", source, "lobos:demo/copied")
    rclone("mkdir", "lobos:other")
    rclone("move", "lobos:demo/copied", "lobos:other/moved")
    rclone("check", "--download", source, "lobos:other/moved")
    assert rooted.keys(Prefix="copied/") == []
    (source / "a.txt").touch()
    rclone("copy", source, "lobos:demo/tree")
    assert rooted.head("tree/a.txt")["Metadata"]["mtime"]


def test_listing_reading_deleting(rooted, rclone, tree):
    source, files = tree
    rclone("copy", source, "lobos:demo/tree")
    assert sorted(rclone("lsf", "-R", "--files-only", "lobos:demo/tree").splitlines()) == sorted(files)
    assert rclone("cat", "lobos:demo/tree/a.txt") == "a"
    assert rclone("lsf", "lobos:").splitlines() == [f"{name}/" for name in rooted.buckets()]
    rclone("deletefile", "lobos:demo/tree/empty")
    rclone("purge", "lobos:demo/tree")
    assert rooted.keys() == []
    rclone("rmdir", "lobos:demo")
    assert not rooted.directory.exists()


def test_files_that_were_there_before(rooted, rclone, tmp_path):
    (rooted.directory / "old").mkdir()
    (rooted.directory / "old" / "file").write_bytes(b"by hand")
    rclone("copy", "lobos:demo/old", tmp_path / "back")
    assert (tmp_path / "back" / "file").read_bytes() == b"by hand"

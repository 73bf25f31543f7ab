"""`lobos serve --blob`: the file that is made, what is refused, and who owns it."""

import os
import subprocess

import pytest

from lobos import BINARY, clean_environment
from test_boto3_objects import refused

LISTEN = ("--listen", "127.0.0.1:0")


@pytest.fixture
def lobos(tmp_path):
    """`lobos(*arguments)`: runs the program to its end; (status, stdout, stderr)."""
    def lobos(*arguments, **environment):
        done = subprocess.run(
            [BINARY, *map(str, arguments)], env=clean_environment(tmp_path) | environment,
            cwd=tmp_path, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
        return done.returncode, done.stdout, done.stderr
    return lobos


def test_a_missing_file_is_made_and_an_existing_one_opened(start, image, payload):
    server = start("serve", "--blob", f"{image}:64MiB", *LISTEN)
    assert image.stat().st_size == 64 << 20 and image.stat().st_mode & 0o077 == 0
    s3, data = server.client(), payload(3_000_000)
    s3.put_object(Bucket="lobos", Key="k", Body=data)
    s3.create_bucket(Bucket="another")
    s3.put_object(Bucket="another", Key="k", Body=b"x")
    server.stop()
    assert image.stat().st_size == 64 << 20
    s3 = start("serve", "--blob", image, *LISTEN).client()
    assert [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]] == ["another", "lobos"]
    assert s3.get_object(Bucket="lobos", Key="k")["Body"].read() == data
    assert s3.get_object(Bucket="another", Key="k")["Body"].read() == b"x"


def test_the_banner_tells_the_store(start, image):
    server = start("serve", "--blob", f"{image}:64MiB", "--durability", "relaxed",
                   *LISTEN)
    lines = server.printed().splitlines()
    assert f"blob: {image}" in lines
    assert f"blob_size_bytes: {64 << 20}" in lines
    assert "blob_durability: relaxed" in lines
    assert any(line in lines for line in ("blob_device: io_uring", "blob_device: thread pool"))
    assert f"Starting S3 HTTP server for bucket lobos at 127.0.0.1:{server.port}" in lines


def test_the_file_says_the_same_as_the_flags(start, image, tmp_path):
    (tmp_path / "lobos.cfg").write_text(
        '[server]\nlisten = "127.0.0.1:0"\n'
        '[blob]\npath = "store.img"\nsize = "64 MiB"\nbuffers = "8 MiB"\n')
    server = start("-c", tmp_path / "lobos.cfg")
    server.client().put_object(Bucket="lobos", Key="k", Body=b"x")
    assert image.stat().st_size == 64 << 20, "relative to the file"
    assert "blob_durability: strict" in server.printed()


def test_the_bucket_that_is_always_there_stays(start, image):
    s3 = start("serve", "--blob", f"{image}:64MiB", *LISTEN).client()
    status, code, message = refused(s3.delete_bucket, Bucket="lobos")
    assert (status, code) == (403, "AccessDenied") and "lobos" in message
    s3.create_bucket(Bucket="another")
    s3.delete_bucket(Bucket="another")
    assert [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]] == ["lobos"]


def test_directories_and_a_store_in_one_process(start, lobos, image, tmp_path):
    server = start("serve", tmp_path / "demo", "--blob", f"{image}:64MiB", *LISTEN)
    s3 = server.client()
    s3.put_object(Bucket="demo", Key="k", Body=b"a file")
    s3.copy_object(Bucket="lobos", Key="copy", CopySource="demo/k")
    s3.copy_object(Bucket="demo", Key="back", CopySource="lobos/copy")
    assert (tmp_path / "demo" / "back").read_bytes() == b"a file"
    s3.create_bucket(Bucket="made")
    assert not (tmp_path / "made").exists(), "clients make buckets in the store"
    names = [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]
    assert names == ["demo", "lobos", "made"]
    server.stop()
    for clash in (tmp_path / "lobos", tmp_path / "x" / "made"):
        status, _, error = lobos("serve", clash, "--blob", image, *LISTEN)
        assert status == 1
        assert f"`{clash.name}`" in error and "--bucket NAME=DIR" in error, error


def test_a_root_beside_a_store(start, lobos, image, tmp_path):
    root = tmp_path / "root"
    (root / "files").mkdir(parents=True)
    server = start("serve", "--root", root, "--blob", f"{image}:64MiB", *LISTEN)
    s3 = server.client()
    s3.create_bucket(Bucket="made")
    assert os.listdir(root) == ["files"]
    s3.create_bucket(Bucket="files")
    s3.put_object(Bucket="files", Key="k", Body=b"x")
    assert (root / "files" / "k").read_bytes() == b"x", "its own bucket, asked for again"
    (root / "made").mkdir()
    assert [b["Name"] for b in s3.list_buckets()["Buckets"]] == ["files", "lobos", "made"]
    server.stop()
    status, _, error = lobos("serve", "--root", root, "--blob", image, *LISTEN)
    assert status == 1 and "`made`" in error, error


def test_what_is_no_store_is_refused_and_stays_as_it_is(lobos, image, tmp_path):
    status, _, error = lobos("serve", "--blob", image, *LISTEN)
    assert status == 1 and f"--blob {image}:10GiB" in error, error
    assert not image.exists()
    for content in (b"", b"somebody's file", bytes(1 << 20)):
        image.write_bytes(content)
        status, _, error = lobos("serve", "--blob", f"{image}:64MiB", *LISTEN)
        assert status == 1 and f"lobos blob format --force {image}" in error, error
        assert image.read_bytes() == content
    status, _, error = lobos("serve", "--blob", tmp_path, *LISTEN)
    assert status == 1 and "neither a file nor a block device" in error


def test_sizes_that_make_no_sense(lobos, image):
    status, _, error = lobos("serve", "--blob", f"{image}:10Gib", *LISTEN)
    assert status == 2 and "10Gib" in error and "GiB" in error
    status, _, error = lobos("serve", "--blob", f"{image}:1MiB", *LISTEN)
    assert status == 1 and "at least" in error
    status, _, error = lobos("serve", "--blob", f"{image}:900TiB", *LISTEN)
    assert status == 1 and str(image) in error
    assert not image.exists(), "a file that could not become a store does not stay"


def test_p16_a_store_has_one_owner(start, lobos, image):
    server = start("serve", "--blob", f"{image}:64MiB", *LISTEN)
    status, _, error = lobos("serve", "--blob", image, *LISTEN)
    assert status == 1 and str(image) in error and "another process has it open" in error
    server.client().put_object(Bucket="lobos", Key="k", Body=b"x")
    server.process.kill()
    server.process.wait()
    again = start("serve", "--blob", image, *LISTEN)
    assert again.client().get_object(Bucket="lobos", Key="k")["Body"].read() == b"x"
    server.stop = lambda: None


def test_unknown_keys_of_the_section_are_refused(lobos, tmp_path):
    config = tmp_path / "lobos.cfg"
    config.write_text('[blob]\npath = "x"\nsizze = 1\n')
    status, _, error = lobos("check-config", "-c", config)
    assert status == 1 and "line 3" in error and "mean `size`" in error
    config.write_text('[blob]\nsize = "1 GiB"\n')
    assert "blob.path" in lobos("check-config", "-c", config)[2]

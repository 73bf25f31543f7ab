"""The aws command line, as a person uses it."""

import hashlib
import json
import os
import re
import shutil

import pytest

from lobos import AWS, client_environment, run

MIB = 1 << 20


@pytest.fixture
def aws(site, tmp_path):
    """`aws(*arguments)`: runs the command against the site and returns what it printed."""
    environment = client_environment(site.server, tmp_path)
    return lambda *arguments, **more: run([*AWS, *arguments], environment, cwd=tmp_path, **more)


def test_ls_shows_the_bucket(site, aws):
    assert aws("s3", "ls").split()[2::3] == site.buckets()


def test_ls_shows_files_and_directories_that_were_there_before(start, tmp_path):
    directory = tmp_path / "demo"
    (directory / "src" / "engine").mkdir(parents=True)
    (directory / "by-hand").mkdir()
    (directory / "readme.txt").write_text("hello")
    (directory / "src" / "main.rs").write_text("fn main() {}")
    (directory / "src" / "engine" / "mod.rs").write_text("")
    server = start("serve", directory, "--listen", "127.0.0.1:0")
    environment = client_environment(server, tmp_path)

    top = [line.split() for line in run([*AWS, "s3", "ls", "s3://demo"], environment).splitlines()]
    assert [line for line in top if line[0] == "PRE"] == [["PRE", "by-hand/"], ["PRE", "src/"]]
    assert [line[2:] for line in top if line[0] != "PRE"] == [["5", "readme.txt"]]

    source = run([*AWS, "s3", "ls", "s3://demo/src/"], environment).splitlines()
    assert source[0].split() == ["PRE", "engine/"]
    assert source[1].split()[2:] == ["12", "main.rs"]
    assert len(source) == 2

    everything = run([*AWS, "s3", "ls", "--recursive", "s3://demo"], environment).splitlines()
    names = [line.split()[3] for line in everything]
    assert names == ["readme.txt", "src/engine/mod.rs", "src/main.rs"]


@pytest.mark.parametrize("size", [0, 1, 8 * MIB, 100 * MIB])
def test_cp_up_and_down(site, aws, tmp_path, payload, size):
    source, back = tmp_path / "source.bin", tmp_path / "back.bin"
    source.write_bytes(payload(size))
    aws("s3", "cp", source, "s3://demo/some/where.bin")
    stored = (site.directory / "some" / "where.bin").read_bytes()
    assert hashlib.md5(stored).digest() == hashlib.md5(source.read_bytes()).digest()
    etag = site.head("some/where.bin")["ETag"].strip('"')
    if size >= 8 * MIB:
        assert etag.endswith(f"-{-(-size // (8 * MIB))}"), "an upload in parts of 8 MiB"
    else:
        assert etag == hashlib.md5(stored).hexdigest()
    aws("s3", "cp", "s3://demo/some/where.bin", back)
    assert back.read_bytes() == source.read_bytes()


def test_cp_from_and_to_a_pipe(site, aws, tmp_path):
    (site.directory / "piped.txt").write_text("through a pipe")
    assert aws("s3", "cp", "s3://demo/piped.txt", "-") == "through a pipe"


def test_cp_guesses_the_content_type(site, aws, tmp_path):
    (tmp_path / "page.html").write_text("<p>")
    aws("s3", "cp", tmp_path / "page.html", "s3://demo/page.html")
    assert site.head("page.html")["ContentType"] == "text/html"


def make_tree(directory, payload):
    files = {
        "a.txt": b"a", "empty": b"", "deep/er/file name.txt": b"spaces",
        "deep/großes Maß/ü.txt": "ü".encode(), "deep/plus+and%25.txt": b"plus",
        "nine.bin": payload(9 * MIB),
    }
    for name, data in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return files


def test_sync_up_and_down_twice(site, aws, tmp_path, payload):
    source, back = tmp_path / "source", tmp_path / "back"
    files = make_tree(source, payload)
    assert len(aws("s3", "sync", source, "s3://demo/tree", "--no-progress").splitlines()) == len(files)
    assert {name: (site.directory / "tree" / name).read_bytes() for name in files} == files
    assert aws("s3", "sync", source, "s3://demo/tree") == "", "nothing changed, nothing to send"

    assert len(aws("s3", "sync", "s3://demo/tree", back, "--no-progress").splitlines()) == len(files)
    assert {name: (back / name).read_bytes() for name in files} == files
    assert aws("s3", "sync", "s3://demo/tree", back) == ""

    (source / "a.txt").write_bytes(b"another")
    (source / "empty").unlink()
    aws("s3", "sync", "--delete", source, "s3://demo/tree")
    assert (site.directory / "tree" / "a.txt").read_bytes() == b"another"
    assert not (site.directory / "tree" / "empty").exists()


def test_mv_within_the_bucket_and_from_disk(site, aws, tmp_path):
    (tmp_path / "one.txt").write_text("one")
    aws("s3", "mv", tmp_path / "one.txt", "s3://demo/in/one.txt")
    assert not (tmp_path / "one.txt").exists()
    aws("s3", "mv", "s3://demo/in/one.txt", "s3://demo/out/two.txt")
    assert site.keys() == ["out/two.txt"]
    assert (site.directory / "out" / "two.txt").read_text() == "one"
    assert not (site.directory / "in").exists(), "a directory that S3 made goes with its last file"


def test_rm_recursive(site, aws, tmp_path, payload):
    make_tree(tmp_path / "source", payload)
    aws("s3", "sync", tmp_path / "source", "s3://demo/tree")
    (site.directory / "kept.txt").write_text("kept")
    aws("s3", "rm", "--recursive", "s3://demo/tree")
    assert site.keys() == ["kept.txt"]
    assert not (site.directory / "tree").exists()


def test_presign_and_curl(site, aws, tmp_path):
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    site.put("a path/signed ü.txt", b"signed for you")
    url = aws("s3", "presign", "s3://demo/a path/signed ü.txt").strip()
    environment = client_environment(site.server, tmp_path)
    assert run([curl, "-sSf", "--noproxy", "*", url], environment) == "signed for you"
    broken = re.sub("Signature=....", "Signature=AAAA", url)
    refused = run([curl, "-sS", "--noproxy", "*", broken], environment)
    assert "SignatureDoesNotMatch" in refused


def test_get_object_range(site, aws, tmp_path):
    site.put("digits", b"0123456789")
    answer = aws("s3api", "get-object", "--bucket", "demo", "--key", "digits",
                 "--range", "bytes=2-5", tmp_path / "part")
    assert json.loads(answer)["ContentRange"] == "bytes 2-5/10"
    assert (tmp_path / "part").read_bytes() == b"2345"


def test_a_missing_key_is_an_error_with_its_name(site, tmp_path):
    environment = client_environment(site.server, tmp_path)
    run([*AWS, "s3", "cp", "s3://demo/nothing", tmp_path / "x"], environment, status=1)
    # Version 1 of the command ends with 255 where version 2 has 254.
    run([*AWS, "s3", "ls", "s3://nowhere"], environment, status=255)


def test_mb_and_rb_in_root_mode(rooted, tmp_path):
    environment = client_environment(rooted.server, tmp_path)
    run([*AWS, "s3", "mb", "s3://second"], environment)
    assert (rooted.directory.parent / "second").is_dir()
    run([*AWS, "s3", "rb", "s3://second"], environment)
    assert not (rooted.directory.parent / "second").exists()
    (rooted.directory / "file").write_text("x")
    run([*AWS, "s3", "rb", "s3://demo"], environment, status=1)
    run([*AWS, "s3", "rb", "--force", "s3://demo"], environment)
    assert os.listdir(rooted.directory.parent) in ([], [".lobos"])

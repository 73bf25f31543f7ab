"""s3cmd with path style and SigV4, its default for custom hosts."""

import shutil

import pytest

from lobos import clean_environment, run
from test_presigned import fetch

S3CMD = shutil.which("s3cmd")
pytestmark = pytest.mark.skipif(S3CMD is None, reason="s3cmd is not installed")
MIB = 1 << 20


@pytest.fixture
def s3cmd(site, tmp_path):
    config = tmp_path / "s3cfg"
    config.write_text(f"""[default]
access_key = {site.server.access_key}
secret_key = {site.server.secret_key}
host_base = 127.0.0.1:{site.server.port}
host_bucket = 127.0.0.1:{site.server.port}
use_https = False
max_retries = 1
""")
    environment = clean_environment(tmp_path)
    # s3cmd runs under the system's Python, where the modules of this test run do not belong.
    environment.pop("PYTHONPATH", None)
    command = [S3CMD, "-c", config, "--no-progress"]
    return lambda *more, **kept: run([*command, *more], environment, cwd=tmp_path, **kept)


def test_put_get_ls_del(site, s3cmd, tmp_path, payload):
    source = tmp_path / "file ü+.bin"
    for size in (0, 1, 100_000):
        source.write_bytes(payload(size))
        s3cmd("put", source, "s3://demo/dir/file ü+.bin")
        assert (site.directory / "dir" / "file ü+.bin").read_bytes() == source.read_bytes()
        s3cmd("get", "--force", "s3://demo/dir/file ü+.bin", tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == source.read_bytes()
    assert s3cmd("ls").split()[2::3] == [f"s3://{name}" for name in site.buckets()]
    assert s3cmd("ls", "s3://demo").split() == ["DIR", "s3://demo/dir/"]
    assert s3cmd("ls", "s3://demo/dir/").split(maxsplit=3)[2:] == [
        "100000", "s3://demo/dir/file ü+.bin\n"]
    s3cmd("del", "s3://demo/dir/file ü+.bin")
    assert site.keys() == []


def test_multipart(site, s3cmd, tmp_path, payload):
    source = tmp_path / "large"
    source.write_bytes(payload(17 * MIB))
    s3cmd("put", "--multipart-chunk-size-mb=5", source, "s3://demo/large")
    assert (site.directory / "large").read_bytes() == source.read_bytes()
    assert site.head("large")["ETag"].endswith('-4"')
    s3cmd("get", "s3://demo/large", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == source.read_bytes()


def test_sync_twice(site, s3cmd, tmp_path):
    source, back = tmp_path / "source", tmp_path / "back"
    files = {"a": b"1", "deep/b c": b"2", "deep/er/ü": b"3"}
    for name, data in files.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(data)
    back.mkdir()
    assert s3cmd("sync", f"{source}/", "s3://demo/tree/").count("upload:") == 3
    assert "upload:" not in s3cmd("sync", f"{source}/", "s3://demo/tree/")
    assert s3cmd("sync", "s3://demo/tree/", f"{back}/").count("download:") == 3
    assert "download:" not in s3cmd("sync", "s3://demo/tree/", f"{back}/")
    assert {name: (back / name).read_bytes() for name in files} == files
    s3cmd("del", "--recursive", "--force", "s3://demo/tree/")
    assert site.keys() == []


def test_files_nobody_uploaded(site, s3cmd, tmp_path):
    (site.directory / "by-hand").write_bytes(b"data")
    s3cmd("get", "s3://demo/by-hand", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"data"


def test_info(site, s3cmd):
    site.put("k", b"data", ContentType="text/x-info", Metadata={"one": "1"})
    about = s3cmd("info", "s3://demo/k")
    for line in ("File size: 4", "MIME type: text/x-info", "x-amz-meta-one: 1",
                 "MD5 sum:   8d777f385d3dfec8815d20f7496026dc"):
        assert line in about
    assert "Location:" in s3cmd("info", "s3://demo")


def test_copy_move_and_modify(site, s3cmd):
    site.put("k", b"data")
    s3cmd("cp", "s3://demo/k", "s3://demo/copy")
    s3cmd("mv", "s3://demo/copy", "s3://demo/moved")
    s3cmd("modify", "--add-header=Content-Type:text/x-new", "s3://demo/moved")
    assert site.keys() == ["k", "moved"]
    assert site.head("moved")["ContentType"] == "text/x-new" and site.read("moved") == b"data"


def test_signed_urls(site, s3cmd, tmp_path):
    site.put("a b", b"signed")
    made = s3cmd("signurl", "s3://demo/a b", "+60").strip()
    assert fetch(made).body == b"signed"


def test_du_and_missing_keys(site, s3cmd, tmp_path):
    site.put("a", b"12345")
    assert s3cmd("du", "s3://demo").split()[0] == "5"
    s3cmd("get", "s3://demo/missing", tmp_path / "x", status=64)

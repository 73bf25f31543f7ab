"""s3fs (fsspec), as pandas, Dask and notebooks use it."""

import http.client
from urllib.parse import urlsplit

import fsspec
import pytest

MIB = 1 << 20


@pytest.fixture
def files(rooted):
    return fsspec.filesystem(
        "s3", key=rooted.server.access_key, secret=rooted.server.secret_key,
        endpoint_url=rooted.server.endpoint, skip_instance_cache=True, use_listings_cache=False,
        client_kwargs={"region_name": "us-east-1"})


def test_buckets_are_made_with_a_region_and_removed(rooted, files):
    files.mkdir("second", region_name="us-east-1")
    assert (rooted.directory.parent / "second").is_dir()
    assert sorted(files.ls("")) == rooted.buckets("second")
    files.rmdir("second")
    assert not (rooted.directory.parent / "second").exists()


def test_files_are_written_read_listed_and_removed(rooted, files, payload):
    large = payload(12 * MIB)
    files.pipe("demo/a/small ü+.txt", b"small")
    with files.open("demo/a/large", "wb", block_size=5 * MIB) as out:
        out.write(large)
    assert (rooted.directory / "a" / "large").read_bytes() == large
    assert files.cat("demo/a/small ü+.txt") == b"small"
    with files.open("demo/a/large", "rb") as source:
        source.seek(7 * MIB)
        assert source.read(1000) == large[7 * MIB:7 * MIB + 1000]
    assert sorted(files.ls("demo/a")) == ["demo/a/large", "demo/a/small ü+.txt"]
    assert files.info("demo/a/large")["size"] == len(large) and files.isdir("demo/a")
    assert not files.exists("demo/missing")
    files.copy("demo/a/large", "demo/b/copy")
    assert files.find("demo") == ["demo/a/large", "demo/a/small ü+.txt", "demo/b/copy"]
    files.mv("demo/b/copy", "demo/c")
    files.rm("demo/a", recursive=True)
    assert rooted.keys() == ["c"]


def test_urls_that_it_signs(rooted, files):
    files.pipe("demo/a b", b"signed")
    parts = urlsplit(files.url("demo/a b", expires=60))
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=20)
    connection.request("GET", f"{parts.path}?{parts.query}")
    assert connection.getresponse().read() == b"signed"
    connection.close()

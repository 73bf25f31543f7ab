"""Fixtures: servers that end with their test, and the data that tests move."""

import os
import random
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lobos import BINARY, Lobos
from stored import Stored

# Where the buckets of `site` and `rooted` are: in a directory, or in a blob store on a file or on
# one of SPDK's bdevs.
ENGINE = os.environ.get("LOBOS_TEST_ENGINE", "fs")
ENGINES = ("fs", "blob", "spdk-malloc", "spdk-aio", "spdk-uring")
assert ENGINE in ENGINES, f"LOBOS_TEST_ENGINE={ENGINE}: it is one of {', '.join(ENGINES)}"

for name in [name for name in os.environ if name.startswith("AWS_")]:
    del os.environ[name]
os.environ |= {
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "NO_PROXY": "*",
}


def pytest_sessionstart():
    if not BINARY.is_file():
        pytest.exit(f"{BINARY} is missing: build it with `cargo build --release`", returncode=2)


@pytest.fixture
def start(tmp_path):
    """`start(*arguments)`: a server that is stopped, and its log checked, after the test."""
    running = []

    def start(*arguments, **more):
        home = tmp_path / f"server-{len(running)}"
        running.append(Lobos(arguments, home, **more))
        return running[-1]

    yield start
    failures = []
    for server in running:
        try:
            server.stop()
        except AssertionError as failure:
            failures.append(str(failure))
    assert not failures, "\n".join(failures)


@dataclass
class Site:
    """A server, its one bucket, the directory that is the bucket (or what stands for it in a blob
    store), and a client."""

    server: Lobos
    bucket: str
    directory: Path | Stored
    s3: Any
    # Buckets that are always there beside it.
    others: tuple = ()

    def put(self, key, body=b"", **more):
        return self.s3.put_object(Bucket=self.bucket, Key=key, Body=body, **more)

    def get(self, key, **more):
        return self.s3.get_object(Bucket=self.bucket, Key=key, **more)

    def read(self, key, **more):
        return self.get(key, **more)["Body"].read()

    def head(self, key, **more):
        return self.s3.head_object(Bucket=self.bucket, Key=key, **more)

    def buckets(self, *made):
        """The names of all buckets, where these were made."""
        return sorted([self.bucket, *self.others, *made])

    def plain_files(self):
        """Skips a test that is about the directory where the bucket is none."""
        if isinstance(self.directory, Stored):
            pytest.skip("about plain files")

    def keys(self, **more):
        """Every key, through as many pages as it takes."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, **more)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]


@pytest.fixture
def image(tmp_path):
    """Where a blob store may be made. Its space is reserved, so it does not stay for pytest's
    three runs."""
    image = tmp_path / "store.img"
    yield image
    image.unlink(missing_ok=True)


@pytest.fixture
def site(start, tmp_path, image):
    """`lobos serve DIR` on an empty directory named `demo`."""
    if ENGINE != "fs":
        return in_a_store(start, image)
    directory = tmp_path / "demo"
    directory.mkdir()
    server = start("serve", directory, "--listen", "127.0.0.1:0")
    return Site(server, "demo", directory, server.client())


@pytest.fixture
def rooted(start, tmp_path, image):
    """`lobos serve --root DIR` with one bucket `demo`, made through S3."""
    if ENGINE != "fs":
        return in_a_store(start, image)
    root = tmp_path / "root"
    server = start("serve", "--root", root, "--listen", "127.0.0.1:0")
    s3 = server.client()
    s3.create_bucket(Bucket="demo")
    return Site(server, "demo", root / "demo", s3)


def in_a_store(start, image):
    """`lobos serve --blob FILE:SIZE` with a bucket `demo`, made through S3."""
    place = ["--blob", f"{image}:192MiB"] if ENGINE == "blob" else ["-c", on_spdk(image)]
    server = start("serve", *place, "--listen", "127.0.0.1:0")
    s3 = server.client()
    s3.create_bucket(Bucket="demo")
    return Site(server, "demo", Stored(s3, ("demo",)), s3, others=("lobos",))


def on_spdk(image):
    """A configuration of a store on SPDK, in ordinary memory."""
    device = {"spdk-malloc": 'malloc = "192 MiB"',
              "spdk-aio": f'aio = "{image}"\nsize = "192 MiB"',
              "spdk-uring": f'uring = "{image}"\nsize = "192 MiB"\nvolatile_cache = "none"'}[ENGINE]
    config = image.with_suffix(".cfg")
    config.write_text(f'[spdk_blobstore]\n{device}\nno_huge = true\nmemory = "192 MiB"\n')
    return config


@pytest.fixture
def payload():
    """`payload(size)`: that many bytes, the same in every run, different for each seed."""
    return lambda size, seed=1: random.Random(seed).randbytes(size)


@pytest.fixture
def loopback_names(monkeypatch):
    """`<bucket>.localhost` and `<bucket>.127.0.0.1` lead to 127.0.0.1 in this process."""
    real = socket.getaddrinfo

    def resolve(host, *more, **named):
        if isinstance(host, str) and host.endswith((".localhost", ".127.0.0.1")):
            host = "127.0.0.1"
        return real(host, *more, **named)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


@pytest.fixture(scope="session")
def loopback_library(tmp_path_factory):
    """The same for other programs: a library to preload, since libc asks a name server else."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (cc) to build the resolver that names under localhost need")
    library = tmp_path_factory.mktemp("preload") / "loopback_names.so"
    source = Path(__file__).with_name("loopback_names.c")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library

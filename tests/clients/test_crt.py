"""The AWS CRT client (LMCache, Mountpoint, the PyTorch connector): virtual hosts, ranges, parts."""

import json
import sys
from pathlib import Path

import pytest

from lobos import client_environment, run

MIB = 1 << 20
CLIENT = Path(__file__).with_name("crt_client.py")


@pytest.fixture
def crt(site, tmp_path, loopback_library):
    """`crt(verb, key, host, file)`: one transfer by a process of its own; returns its report."""
    environment = client_environment(site.server, tmp_path, LD_PRELOAD=str(loopback_library))

    def transfer(verb, key, host, file, *more, status=0):
        authority = f"demo.{host}:{site.server.port}"
        command = [sys.executable, CLIENT, verb, authority, key, file, *more]
        return json.loads(run(command, environment, status=status))

    return transfer


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
@pytest.mark.parametrize("size", [0, 1 * MIB, 24 * MIB, 80 * MIB])
def test_put_and_get(site, crt, tmp_path, payload, size, host):
    source, back = tmp_path / "source", tmp_path / "back"
    source.write_bytes(payload(size))
    key = "vllm@kv/chunk@0"
    assert crt("put", key, host, source)["status"] == 200
    assert (site.directory / "vllm@kv" / "chunk@0").read_bytes() == source.read_bytes()
    etag = site.head(key)["ETag"]
    assert ("-" in etag) == (size > 8 * MIB), "over 8 MiB the client sends parts of 8 MiB"
    report = crt("get", key, host, back)
    assert report["status"] in (200, 206)
    assert back.read_bytes() == source.read_bytes()
    assert crt("head", key, host, back)["length"] == str(size)


def test_head_and_get_of_a_missing_key(crt, tmp_path):
    assert crt("head", "missing", "localhost", tmp_path / "x")["status"] == 404
    assert crt("get", "missing", "localhost", tmp_path / "x")["status"] == 404


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"])
@pytest.mark.parametrize("size", [1 * MIB, 20 * MIB])
def test_trailing_checksums(site, crt, tmp_path, payload, algorithm, size):
    source, back = tmp_path / "source", tmp_path / "back"
    source.write_bytes(payload(size))
    assert crt("put", "k", "localhost", source, algorithm)["status"] == 200
    head = site.head("k", ChecksumMode="ENABLED")
    assert head[f"Checksum{algorithm}"]
    crt("get", "k", "localhost", back)
    assert back.read_bytes() == source.read_bytes()

"""Path style and virtual hosts, by name and by address."""

import subprocess

import pytest

import wire
from lobos import AWS, client_environment, run


@pytest.mark.parametrize("host", ["demo.localhost", "demo.127.0.0.1"])
def test_the_bucket_in_the_host(site, host):
    host = f"{host}:{site.server.port}"
    assert wire.signed(site.server, "PUT", "/a/b", body=b"x", host=host).status == 200
    assert (site.directory / "a" / "b").read_bytes() == b"x"
    assert wire.signed(site.server, "GET", "/a/b", host=host).body == b"x"
    listing = wire.signed(site.server, "GET", "/", "list-type=2", host=host)
    assert b"<Name>demo</Name>" in listing.body and b"<Key>a/b</Key>" in listing.body
    assert wire.signed(site.server, "HEAD", "/", host=host).status == 200
    inside = wire.signed(site.server, "PUT", "/demo/x", body=b"y", host=host)
    assert inside.status == 200 and site.read("demo/x") == b"y", "the host names the bucket"


def test_boto3_with_virtual_hosts(site, loopback_names):
    s3 = site.server.client(
        f"http://localhost:{site.server.port}", s3={"addressing_style": "virtual"})
    hosts = []
    s3.meta.events.register("before-send.s3", lambda request, **_: hosts.append(request.url))
    s3.put_object(Bucket="demo", Key="a b/ü", Body=b"virtual")
    assert s3.get_object(Bucket="demo", Key="a b/ü")["Body"].read() == b"virtual"
    assert hosts[0].startswith(f"http://demo.localhost:{site.server.port}/a%20b/")
    assert [e["Key"] for e in s3.list_objects_v2(Bucket="demo")["Contents"]] == ["a b/ü"]
    assert [b["Name"] for b in s3.list_buckets()["Buckets"]] == site.buckets()


def test_aws_cli_with_virtual_hosts(site, tmp_path, loopback_library):
    (tmp_path / "config").write_text("[default]\ns3 =\n  addressing_style = virtual\n")
    environment = client_environment(
        site.server, tmp_path, AWS_ENDPOINT_URL=f"http://localhost:{site.server.port}",
        AWS_CONFIG_FILE=str(tmp_path / "config"), LD_PRELOAD=str(loopback_library))
    (tmp_path / "file").write_bytes(b"x" * 9_000_000)
    copied = run([*AWS, "--debug", "s3", "cp", tmp_path / "file", "s3://demo/in/parts"],
                 environment, stderr=subprocess.STDOUT)
    assert f"http://demo.localhost:{site.server.port}/in/parts" in copied
    assert (site.directory / "in" / "parts").stat().st_size == 9_000_000
    assert run([*AWS, "s3", "ls", "s3://demo"], environment).split() == ["PRE", "in/"]


def test_configured_domains(start, tmp_path):
    server = start("serve", tmp_path / "demo", "--listen", "127.0.0.1:0",
                   "--domain", "s3.example.org")
    for host in ("demo.s3.example.org", f"demo.s3.example.org:{server.port}", "DEMO.S3.example.org"):
        assert wire.signed(server, "PUT", "/k", body=b"x", host=host).status == 200, host
    assert (tmp_path / "demo" / "k").read_bytes() == b"x"
    by_path = wire.signed(server, "GET", "/demo/k", host="s3.example.org")
    assert by_path.body == b"x"


def test_any_host_when_the_path_names_the_bucket(site):
    site.put("k", b"x")
    for host in ("proxy.example.com", "10.1.2.3:9000", "localhost"):
        assert wire.signed(site.server, "GET", "/demo/k", host=host).body == b"x", host


def test_buckets_with_dots(rooted):
    rooted.s3.create_bucket(Bucket="my.dotted.bucket")
    host = f"my.dotted.bucket.localhost:{rooted.server.port}"
    assert wire.signed(rooted.server, "PUT", "/k", body=b"x", host=host).status == 200
    got = rooted.s3.get_object(Bucket="my.dotted.bucket", Key="k")
    assert got["Body"].read() == b"x"


def test_health_needs_no_signature(site):
    for path in ("/-/healthz", "/-/readyz"):
        assert wire.plain(site.server, "GET", path).status == 200

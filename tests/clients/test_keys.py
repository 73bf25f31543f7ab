"""Keys that trees, URLs or XML find hard: each goes in, comes out, is listed and deleted."""

import os

import pytest

import wire
from test_boto3_objects import refused

ODD = {
    "spaces": " leading and trailing ",
    "plus": "a+b c%2B",
    "percent": "100%/%41%zz/%",
    "at": "v1/user@example.org/@",
    "unicode": "grüße/文書/\U0001f980/e\u0301 and é",
    "quotes": "\"double\" 'single' `back` <a>&amp;",
    "punctuation": "!*'();:@&=+$,?#[]|\\^~{}",
    "slashes": "a//b///c",
    "leading slash": "/etc/passwd",
    "trailing slash": "directory/",
    "only slashes": "//",
    "dot": ".",
    "dots": "..",
    "dot segments": "a/./b/../c",
    "climb": "../../../../tmp/lobos-climb",
    "hidden": ".hidden/.file",
    "reserved": ".lobos/versions/x",
    "reserved deep": "a/.lobos/b",
    "long segment": "s" * 300,
    "long segments": "/".join(["t" * 255, "u" * 256, "v" * 200]),
    "1024 bytes": "k" * 1024,
    "1024 bytes unicode": "ü" * 512,
    "tab and newline": "tab\tnew\nline",
    "control": "bell\x07",
    "backslash": "..\\..\\windows",
    "case": "CaSe/readme",
    "case twin": "case/README",
    "query like": "?uploads",
    "dash": "--help",
    "null": "null",
}


@pytest.mark.parametrize("name", ODD)
def test_round_trip(site, name):
    key = ODD[name]
    body = name.encode()
    site.put(key, body, Metadata={"name": name})
    assert site.read(key) == body
    assert site.head(key)["Metadata"] == {"name": name}
    assert site.keys() == [key]
    assert refused(site.head, key=key + "x")[0] in (400, 404)
    part = site.get(key, Range="bytes=0-1")
    assert part["Body"].read() == body[:2]
    site.put(key, b"again")
    assert site.read(key) == b"again" and site.keys() == [key]
    site.s3.delete_object(Bucket="demo", Key=key)
    assert site.keys() == []
    assert refused(site.get, key=key)[:2] == (404, "NoSuchKey")
    outside = [path for path in site.directory.parent.iterdir()
               if path.name not in ("demo", "server-0")]
    assert outside == [], "nothing is written beside the bucket"


def test_all_at_once(site):
    for key in ODD.values():
        site.put(key, key.encode())
    expected = sorted(ODD.values(), key=str.encode)
    assert site.keys() == expected
    assert site.keys(PaginationConfig={"PageSize": 3}) == expected
    for key in ODD.values():
        assert site.read(key) == key.encode()


def test_a_file_and_a_prefix_of_the_same_name(site):
    site.put("a/b", b"below")
    site.put("a", b"file")
    site.put("a/b/c", b"deeper")
    assert [site.read(key) for key in ("a", "a/b", "a/b/c")] == [b"file", b"below", b"deeper"]
    assert site.keys() == ["a", "a/b", "a/b/c"]
    page = site.s3.list_objects_v2(Bucket="demo", Delimiter="/")
    assert [e["Key"] for e in page["Contents"]] == ["a"]
    assert [e["Prefix"] for e in page["CommonPrefixes"]] == ["a/"]
    for key, left in (("a/b", ["a", "a/b/c"]), ("a", ["a/b/c"]), ("a/b/c", [])):
        site.s3.delete_object(Bucket="demo", Key=key)
        assert site.keys() == left


def test_a_directory_key_is_an_object_of_its_own(site):
    site.put("dir/", b"")
    site.put("dir/file", b"x")
    assert site.keys() == ["dir/", "dir/file"]
    assert site.head("dir/")["ContentLength"] == 0
    assert refused(site.head, key="dir")[0] == 404
    site.s3.delete_object(Bucket="demo", Key="dir/file")
    assert site.keys() == ["dir/"]
    site.put("dir/", b"even with bytes")
    assert site.read("dir/") == b"even with bytes"


def test_keys_that_are_refused(site):
    assert refused(site.put, key="k" * 1025)[:2] == (400, "KeyTooLongError")
    for path in ("/demo/%00", "/demo/a%00b", "/demo/%ff%fe", "/demo/%c0%ae%c0%ae/x"):
        answer = wire.signed(site.server, "PUT", path, body=b"x")
        assert answer.status == 400, f"{path}: {answer.status} {answer.code}"
    assert site.keys() == []


@pytest.mark.parametrize("path", ["/demo/%2e%2e/%2e%2e/x", "/demo/..%2f..%2fx", "/demo/a/../../x",
                                  "/demo/%2e%2e%2f%2e%2e%2fetc%2fpasswd"])
def test_a_path_is_decoded_once_and_never_climbs(site, path):
    (site.directory.parent / "x").write_bytes(b"not in the bucket")
    got = wire.signed(site.server, "GET", path)
    assert got.status in (400, 404) and b"not in the bucket" not in got.body
    wire.signed(site.server, "PUT", path, body=b"x")
    assert (site.directory.parent / "x").read_bytes() == b"not in the bucket"
    assert sorted(os.listdir(site.directory)) in ([], [".lobos"])


def test_an_at_sign_may_come_escaped_or_not(site):
    for path in ("/demo/a%40b", "/demo/a@b"):
        assert wire.signed(site.server, "PUT", path, body=path.encode()).status == 200
        assert site.read("a@b") == path.encode()
    assert wire.signed(site.server, "PUT", "/demo/a%2540b", body=b"twice").status == 200
    assert site.keys() == ["a%40b", "a@b"]


def test_a_control_character_is_listed_and_deleted(site):
    site.put("a\x01b", b"x")
    answer = wire.signed(site.server, "GET", "/demo", "encoding-type=url&list-type=2")
    assert b"<Key>a%01b</Key>" in answer.body
    assert wire.signed(site.server, "DELETE", "/demo/a%01b").status == 204
    assert site.keys() == []


def test_links_inside_the_bucket_are_read_and_others_do_not_exist(site):
    (site.directory / "blobs").mkdir()
    (site.directory / "snapshots" / "rev").mkdir(parents=True)
    (site.directory / "blobs" / "sha").write_bytes(b"weights")
    (site.directory.parent / "secret").write_bytes(b"secret")
    (site.directory / "snapshots" / "rev" / "model").symlink_to("../../blobs/sha")
    (site.directory / "out").symlink_to("../secret")
    (site.directory / "absolute").symlink_to("/etc/passwd")
    (site.directory / "linked-directory").symlink_to("blobs")
    assert site.read("snapshots/rev/model") == b"weights"
    assert site.keys() == ["blobs/sha", "snapshots/rev/model"]
    for key in ("out", "absolute", "linked-directory/sha"):
        assert refused(site.get, key=key)[:2] == (404, "NoSuchKey")
    site.put("out", b"a new file")
    assert (site.directory.parent / "secret").read_bytes() == b"secret"
    assert not (site.directory / "out").is_symlink()


def test_special_files_are_ignored(site):
    os.mkfifo(site.directory / "pipe")
    assert site.keys() == []
    assert refused(site.get, key="pipe")[:2] == (404, "NoSuchKey")

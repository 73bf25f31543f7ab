"""Keys are strings: none of them leads out of the bucket or into what Lobos keeps for itself."""

import ctypes
import os
import socket
import stat
import threading
import time

import pytest

from raw import SENTINEL, status

SEGMENTS = ["..", "%2e%2e", "%2E%2e", ".%2e", "..%2f..", "%2e%2e%2f%2e%2e", "..\\..", "..%5c..",
            "%c0%ae%c0%ae", "%e0%80%ae%e0%80%ae", "%252e%252e", "..;", "..%00", "%00", ".", "%2e",
            "", "%2f", "//", "..%ef%bc%8f..", "%u002e%u002e"]
TARGETS = [f"/demo/{segment}/{rest}"
           for segment in SEGMENTS
           for rest in ("outside/secret.txt", "../outside/secret.txt", "demo/victim")]
TARGETS += ["/demo//etc/passwd", "/demo/%2fetc/passwd", "//etc/passwd", "/../etc/passwd",
            "/demo/../../etc/passwd", "/%2e%2e/etc/passwd", "/demo%2f..%2foutside/secret.txt",
            "/outside/secret.txt", "/demo/victim/../../outside/secret.txt", "/./demo/victim",
            "/demo/victim%00.txt", "/demo\\..\\outside\\secret.txt", "/demo/victim/", "/demo/victim/."]
RESERVED = [".lobos", ".lobos/", ".lobos/tmp/x", ".lobos/overlay/fx", ".lobos/locks",
            ".lobos/bucket", ".lobos/uploads/1", "d/.lobos/x", "d/e/.lobos", "%2elobos/tmp",
            ".%6cobos/tmp", "/.lobos/tmp", "./.lobos/tmp", "d/../.lobos/tmp"]


@pytest.mark.parametrize("style", ["path", "virtual_host"])
def test_sec_path_escape_of_targets(victim, style):
    before = (victim.directory / "victim").stat()
    for target in TARGETS:
        headers, sent = (), target
        host = victim.host
        if style == "virtual_host":
            host, sent = "demo.localhost", "/" + target.removeprefix("/demo/")
        for method, body in (("GET", b""), ("HEAD", b""), ("PUT", b"new"), ("DELETE", b"")):
            data = victim.request(method, sent, headers, body).replace(
                b"Host: " + victim.host.encode(), b"Host: " + host.encode())
            answer, _ = victim.talk(data, 10)
            assert status(answer) in (200, 204, 400, 403, 404, 405), (method, sent, answer)
            assert SENTINEL not in answer and b"root:" not in answer, (method, sent)
    assert (victim.directory / "victim").stat() == before
    victim.assert_whole()


def test_sec_path_escape_the_reserved_name_is_a_key_at_every_depth(victim):
    """Such keys live elsewhere: what lies in `.lobos` can be neither read nor changed."""
    victim.ask("PUT", "/demo/a//b", body=b"an overlay and its directories")
    kept = victim.directory / ".lobos"
    marker = kept / "marker"
    marker.write_bytes(SENTINEL)
    nested = victim.directory / "d" / ".lobos"
    nested.mkdir(parents=True)
    (nested / "x").write_bytes(SENTINEL)
    for key in [*RESERVED, ".lobos/marker"]:
        answer = victim.ask("GET", f"/demo/{key}")
        assert status(answer) in (400, 404) and SENTINEL not in answer, (key, answer)
        assert status(victim.ask("PUT", f"/demo/{key}", body=b"mine")) in (200, 400), key
        answer = victim.ask("GET", f"/demo/{key}")
        assert status(answer) == 200 and answer.endswith(b"mine"), (key, answer)
        assert status(victim.ask("DELETE", f"/demo/{key}")) == 204, key
    assert marker.read_bytes() == SENTINEL and (nested / "x").read_bytes() == SENTINEL
    listed = victim.ask("GET", "/demo?list-type=2")
    assert b".lobos" not in listed, listed


def test_sec_path_escape_of_copy_sources(victim):
    sources = ["/demo/../outside/secret.txt", "demo/%2e%2e/outside/secret.txt", "/etc/passwd",
               "../outside/secret.txt", "demo/..%2foutside/secret.txt", "demo%2f..%2foutside",
               "/outside/secret.txt", "demo/.lobos/x", "demo/%00", "demo/\\..\\outside", "%2e%2e/x",
               "demo/victim%00", "/", "", "demo", "arn:aws:s3:::demo/victim", "demo/%c0%ae%c0%ae/x"]
    for source in sources:
        answer = victim.ask("PUT", "/demo/copied", [f"x-amz-copy-source: {source}"])
        assert status(answer) in (400, 403, 404), (source, answer)
        assert not (victim.directory / "copied").exists(), source
    victim.assert_whole()


def test_sec_path_escape_of_the_keys_of_a_multi_object_delete(victim):
    keys = ["../outside/secret.txt", "/../outside/secret.txt", "..", ".", "/", "a/../victim",
            "./victim", "/victim", ".lobos", ".lobos/overlay", "victim/", "victim/.",
            "..\\outside\\secret.txt", "&#0;", "d/.lobos/x"]
    victim.ask("PUT", "/demo/a//b", body=b"overlay")
    body = "".join(f"<Object><Key>{key}</Key></Object>" for key in keys if key != "&#0;")
    answer = victim.ask("POST", "/demo?delete", body=f"<Delete>{body}</Delete>".encode())
    assert status(answer) in (200, 400), answer
    body = b"<Delete><Object><Key>a&#0;b</Key></Object></Delete>"
    answer = victim.ask("POST", "/demo?delete", body=body)
    assert b"<Deleted>" not in answer, answer
    assert victim.ask("GET", "/demo/a//b").endswith(b"overlay")
    victim.assert_whole()


@pytest.mark.parametrize("parameter", ["prefix", "start-after", "marker", "delimiter"])
def test_sec_path_escape_of_listing_parameters(victim, parameter):
    version = "" if parameter == "marker" else "list-type=2&"
    for value in ["..", "../", "../outside/", "%2e%2e%2foutside%2f", "/", "//", "/etc/", ".lobos/",
                  ".lobos/overlay/", "./", "victim/", "..%5coutside", "%00", "%c0%ae", "a/../"]:
        answer = victim.ask("GET", f"/demo?{version}{parameter}={value}")
        assert status(answer) in (200, 400), (value, answer)
        assert b"secret.txt" not in answer and b"passwd" not in answer, (value, answer)
        if parameter == "prefix":
            assert b"<Contents>" not in answer and b"<CommonPrefixes>" not in answer, value
    victim.assert_whole()


def test_p18_symbolic_links_lead_nowhere_but_to_files_of_the_bucket(victim):
    tree = victim.directory
    (tree / "real").mkdir()
    (tree / "real" / "file").write_bytes(b"inside")
    victim.ask("PUT", "/demo/a//b", body=b"overlay")
    (tree / ".lobos" / "marker").write_bytes(SENTINEL)
    inside = {"to_file": "real/file", "up_and_down": "real/../real/file"}
    outside = {
        "absolute": victim.outside / "secret.txt", "relative": "../outside/secret.txt",
        "etc": "/etc/passwd", "magic": "/proc/self/root/etc/passwd", "cwd": "/proc/self/cwd",
        "dangling": "nowhere", "loop": "loop", "to_reserved": ".lobos/marker",
        "real/up": "../../outside/secret.txt", "to_root": "/", "device": "/dev/zero",
        "descriptor": "/proc/self/fd/0", "through": "outdir/secret.txt",
    }
    (tree / "outdir").symlink_to(victim.outside)
    (tree / "indir").symlink_to("real")
    for name, target in (inside | outside).items():
        (tree / name).symlink_to(target)
    for name in inside:
        assert victim.ask("GET", f"/demo/{name}").endswith(b"inside"), name
    for name in [*outside, "outdir/secret.txt", "indir/file", "to_root/etc/passwd"]:
        for method in ("GET", "HEAD"):
            answer = victim.ask(method, f"/demo/{name}")
            assert status(answer) == 404, (method, name, answer)
        answer = victim.ask("PUT", "/demo/copied", [f"x-amz-copy-source: demo/{name}"])
        assert status(answer) == 404, (name, answer)
    listed = victim.ask("GET", "/demo?list-type=2")
    for name in outside:
        assert f"<Key>{name}</Key>".encode() not in listed, name
    for name in ("outdir/new", "outdir/secret.txt", "to_root/tmp/lobos-escape"):
        answer = victim.ask("PUT", f"/demo/{name}", body=b"new")
        assert status(answer) in (200, 400, 403, 409), (name, answer)
        victim.ask("DELETE", f"/demo/{name}")
    for name in (*inside, "absolute", "relative", "etc", "to_reserved"):
        assert status(victim.ask("PUT", f"/demo/{name}", body=b"mine")) == 200, name
        assert victim.ask("GET", f"/demo/{name}").endswith(b"mine"), name
        assert not (tree / name).is_symlink(), "a PUT replaces the link"
    assert (tree / "real" / "file").read_bytes() == b"inside"
    assert (tree / ".lobos" / "marker").read_bytes() == SENTINEL
    victim.assert_whole()


def exchange(a, b):
    """Swaps two names in one step, as only renameat2 does."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(-100, bytes(a), -100, bytes(b), 2) != 0:
        raise OSError(ctypes.get_errno(), "renameat2")


def test_p18_a_directory_swapped_for_a_link_while_it_is_used_leads_nowhere(victim):
    tree, stop = victim.directory, threading.Event()
    (tree / "d").mkdir()
    (tree / "d" / "secret.txt").write_bytes(b"harmless")
    (tree / "link").symlink_to(victim.outside)
    (tree / "f").write_bytes(b"harmless")
    (tree / "flink").symlink_to(victim.outside / "secret.txt")

    def swap():
        while not stop.is_set():
            for a, b in (("d", "link"), ("f", "flink")):
                exchange(tree / a, tree / b)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        until, seen = time.monotonic() + 4, set()
        while time.monotonic() < until:
            for method, key, body in (("GET", "d/secret.txt", b""), ("GET", "f", b""),
                                      ("PUT", "d/new", b"x"), ("DELETE", "d/secret.txt2", b""),
                                      ("PUT", "d/deep/new", b"x"), ("DELETE", "d/new", b"")):
                answer = victim.ask(method, f"/demo/{key}", body=body)
                assert SENTINEL not in answer, (method, key)
                seen.add((method, status(answer)))
            assert SENTINEL not in victim.ask("GET", "/demo?list-type=2&prefix=d/")
    finally:
        stop.set()
        thread.join()
    assert ("GET", 200) in seen and ("GET", 404) in seen, seen
    assert not {code for _, code in seen} & {500, None}, seen
    victim.assert_whole()


def test_p18_special_files_are_ignored_and_never_waited_for(victim):
    tree = victim.directory
    os.mkfifo(tree / "fifo")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tree / "socket"))
    names = ["fifo", "socket"]
    if os.geteuid() == 0:
        try:
            os.mknod(tree / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
            names.append("zero")
        except PermissionError:
            pass
    (tree / "to_fifo").symlink_to("fifo")
    listed = victim.ask("GET", "/demo?list-type=2")
    for name in [*names, "to_fifo"]:
        for method in ("GET", "HEAD"):
            assert status(victim.ask(method, f"/demo/{name}")) == 404, (method, name)
        answer = victim.ask("PUT", "/demo/copied", [f"x-amz-copy-source: demo/{name}"])
        assert status(answer) == 404, name
        assert f"<Key>{name}</Key>".encode() not in listed, name
        assert status(victim.ask("DELETE", f"/demo/{name}")) in (204, 409), name
        answer = victim.ask("PUT", f"/demo/{name}", body=b"mine")
        assert status(answer) in (200, 403, 409), (name, answer)
        if status(answer) == 200:
            assert victim.ask("GET", f"/demo/{name}").endswith(b"mine"), name
    listener.close()
    victim.assert_whole()


def test_p18_hard_links_are_cut_by_a_put_not_written_through(victim):
    os.link(victim.outside / "secret.txt", victim.directory / "hard")
    assert status(victim.ask("PUT", "/demo/hard", body=b"mine")) == 200
    os.link(victim.outside / "secret.txt", victim.directory / "hard2")
    meta = ["x-amz-copy-source: demo/hard2", "x-amz-metadata-directive: REPLACE",
            "x-amz-meta-a: b"]
    assert status(victim.ask("PUT", "/demo/hard2", meta)) == 200
    victim.assert_whole()
    assert os.listxattr(victim.outside / "secret.txt") == []

"""What is secret stays secret, and what a client stores cannot become a reply's head or markup."""

import base64
import hashlib
import os
import re
import subprocess
from urllib.parse import quote

import pytest
from botocore.exceptions import ClientError

import wire
from lobos import SECRET_KEY
from raw import Victim, status
from test_authentication import KINDS, ROUTES, Request


@pytest.fixture
def chatty(start, tmp_path):
    """Everything that can be logged is; four bad requests and two good ones of each kind."""
    config = tmp_path / "lobos.cfg"
    config.write_text('[log]\nlevel = "trace"\n')
    server = start("serve", "--root", tmp_path / "root", "-c", config, "--listen", "127.0.0.1:0")
    return server


def test_p20_secrets_and_signatures_are_in_no_log_and_no_answer(chatty):
    s3 = chatty.client()
    s3.create_bucket(Bucket="demo")
    s3.put_object(Bucket="demo", Key="k", Body=b"kept")
    upload = s3.create_multipart_upload(Bucket="demo", Key="big")["UploadId"]
    site = type("Site", (), {"server": chatty, "upload": upload, "complete": b"<x/>"})
    answers, signatures = [], set()
    for name in KINDS:
        for route in ROUTES[14:16] + ROUTES[18:19]:
            request = Request(site, *route)
            KINDS[name](request)
            sent = request.headers.get("Authorization", "") + request.query
            signatures |= set(re.findall(r"Signature=([0-9a-f]{64})", sent))
            answers.append(request.send())
    for route in ROUTES[14:16]:
        for how in ("sign", "presign"):
            request = getattr(Request(site, *route), how)()
            sent = request.headers.get("Authorization", "") + request.query
            signatures |= set(re.findall(r"Signature=([0-9a-f]{64})", sent))
            answers.append(request.send())
    texts = [chatty.log.read_text(errors="replace"), chatty.printed()]
    texts += [answer.body.decode(errors="replace") + str(answer.headers) for answer in answers]
    assert len(signatures) > 40 and len(texts[0]) > 1000
    for text in texts:
        assert SECRET_KEY not in text
        for signature in signatures:
            assert signature not in text, f"a signature in: {text[:300]}"


def test_p20_a_clients_key_is_in_no_log_and_no_file(chatty, tmp_path):
    key, s3 = bytes(range(100, 132)), chatty.client()
    sealed = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": key}
    names = {"Bucket": "demo", "Key": "dir/k"}
    s3.create_bucket(Bucket="demo")
    s3.put_object(**names, **sealed, Body=b"the plain text")
    assert s3.get_object(**names, **sealed)["Body"].read() == b"the plain text"
    for wrong in ({}, sealed | {"SSECustomerKey": key[::-1]}):
        with pytest.raises(ClientError):
            s3.get_object(**names, **wrong)
    digest = hashlib.md5(key).digest()
    secrets = [key, base64.b64encode(key), digest, base64.b64encode(digest), key.hex().encode()]
    kept = [chatty.log.read_bytes(), chatty.printed().encode()]
    for path in (tmp_path / "root").rglob("*"):
        kept += [os.getxattr(path, name) for name in os.listxattr(path)]
        kept += [path.read_bytes()] if path.is_file() else []
    assert len(kept) > 4
    for text in kept:
        assert not any(secret in text for secret in [*secrets, b"the plain text"])


def test_p20_the_right_signature_is_not_told_to_who_sent_a_wrong_one(site):
    """The string to sign is told, as S3 does; what it should have been signed to is not."""
    request = Request(type("S", (), {"server": site.server, "upload": "", "complete": b""}),
                      "GET", "/demo/k", "", b"")
    right = re.search(r"Signature=(\w+)", request.sign().headers["Authorization"])[1]
    request.headers["Authorization"] = request.headers["Authorization"].replace(right, "0" * 64)
    answer = request.send()
    assert answer.code == "SignatureDoesNotMatch" and right.encode() not in answer.body


def test_p20_errors_tell_no_paths(start, tmp_path):
    victim = Victim(start, tmp_path)
    (victim.directory / "dir").mkdir()
    answers = [victim.ask("GET", "/demo/absent"), victim.ask("GET", "/demo/dir"),
               victim.ask("GET", "/nobucket/k"), victim.ask("PUT", "/newbucket"),
               victim.ask("POST", "/demo?delete", body=b"<x"), victim.ask("PUT", "/demo/" + "k" * 1025)]
    if os.geteuid() != 0:
        (victim.directory / "victim").chmod(0)
        answers.append(victim.ask("GET", "/demo/victim"))
    for answer in answers:
        assert status(answer) >= 400
        assert str(tmp_path).encode() not in answer and b"os error" not in answer, answer


def test_p20_the_process_leaves_no_core_with_secrets(site):
    """A core dump would hold the keys: it is switched off for the process."""
    limits = open(f"/proc/{site.server.process.pid}/limits").read()
    core = re.search(r"Max core file size\s+(\d+|unlimited)", limits).group(1)
    assert core == "0", limits


def test_p20_key_files_are_for_their_owner_alone(start, tmp_path):
    (tmp_path / "demo").mkdir()
    server = start("serve", tmp_path / "demo", "--listen", "127.0.0.1:0", keys=False)
    state = server.home / "state"
    files = [path for path in state.rglob("*") if path.is_file()]
    holders = [path for path in files if b"secret" in path.read_bytes().lower()]
    assert holders, files
    for path in holders:
        assert path.stat().st_mode & 0o077 == 0, path
        secret = re.search(r'secret_?\w*["\']?\s*[:=]\s*["\']([^"\']+)', path.read_text())
        assert secret, path.read_text()[:0] + "no secret found"
        assert secret[1] not in server.printed() + server.log.read_text(), "the secret was printed"
        arguments = open(f"/proc/{server.process.pid}/cmdline").read()
        assert secret[1] not in arguments


def test_p20_what_is_new_in_a_file_is_never_old_memory(site):
    """A range past the end, an empty object, a sparse file: only bytes that are there."""
    site.put("k", b"abc")
    for header, body in (("bytes=0-8388607", b"abc"), ("bytes=2-100", b"c"), ("bytes=-100", b"abc")):
        answer = wire.signed(site.server, "GET", "/demo/k", headers={"Range": header})
        assert (answer.status, answer.body) == (206, body), header
    with open(site.directory / "sparse", "wb") as file:
        file.truncate(1 << 20)
    assert site.read("sparse") == bytes(1 << 20)


@pytest.mark.parametrize("name", ["content-type", "content-language", "content-disposition",
                                  "content-encoding", "cache-control", "expires"])
def test_sec_response_injection_overrides_stay_in_their_header(site, name):
    site.put("k", b"data")
    for value in ("text/plain\r\nX-Evil: 1", "a\nX-Evil: 1", "a\rX-Evil: 1", "a\0b", "\r\n\r\n<script>",
                  "a\u560a\u560dX-Evil: 1", "a\x85X-Evil:1", "a\u2028X-Evil: 1", "\x7f"):
        query = f"response-{name}={quote(value, safe='')}"
        answer = wire.signed(site.server, "GET", "/demo/k", query)
        assert answer.status in (200, 400), (value, answer.status)
        assert answer.headers.get("X-Evil") is None, value
        assert b"<script>" not in answer.body and (answer.status == 400 or answer.body == b"data")


def test_sec_response_injection_overrides_need_a_signature(site):
    answer = wire.plain(site.server, "GET", "/demo/k?response-content-type=text/html")
    assert answer.status in (400, 403)


def test_sec_response_injection_metadata_comes_back_as_one_header(site):
    hostile = ["a: b", "<script>", '"quoted"', "a;b,c", "=?UTF-8?B?DQpYLUV2aWw6IDE=?=", "%0d%0aX-Evil: 1",
               "\xe9\xff"]
    for value in hostile:
        headers = {"x-amz-meta-a": value, "Content-Type": "text/plain", "Content-Disposition": value}
        answer = wire.signed(site.server, "PUT", "/demo/m", headers=headers, body=b"x")
        if answer.status == 200:
            answer = wire.signed(site.server, "GET", "/demo/m")
            assert answer.headers.get("X-Evil") is None and answer.body == b"x", value


def test_sec_response_injection_markup_in_keys_is_escaped(site):
    keys = ["<script>alert(1)</script>", "a&b", "]]>", 'q"uote', "<!--", "&lt;", "\x01\x0b"]
    for key in keys:
        site.put(key, b"x")
    answer = wire.signed(site.server, "GET", "/demo", "list-type=2")
    assert b"<script>" not in answer.body and b"<!--" not in answer.body
    assert answer.headers["Content-Type"] == "application/xml"
    assert sorted(site.keys()) == sorted(keys)
    for target in ("/demo/%3Cscript%3Ealert(1)%3C/script%3Eabsent", "/%3Cscript%3E/x",
                   "/demo?list-type=2&prefix=%3Cscript%3E", "/demo?max-keys=%3Cscript%3E",
                   "/demo?%3Cscript%3E=&%3Cscript%3E="):
        path, _, query = target.partition("?")
        answer = wire.signed(site.server, "GET", path, query)
        assert b"<script>" not in answer.body, target
        assert answer.headers["Content-Type"] == "application/xml", target


def test_sec_response_injection_every_reply_says_nosniff(site):
    site.put("k", b"<html><script>alert(1)</script>")
    for method, path, query in (("GET", "/demo/k", ""), ("HEAD", "/demo/k", ""), ("GET", "/demo", ""),
                                ("GET", "/demo/absent", ""), ("GET", "/", "")):
        answer = wire.signed(site.server, method, path, query)
        assert answer.headers.get("X-Content-Type-Options") == "nosniff", (method, path)
    for target in ("/demo/k", "/-/healthz", "/demo/%ff"):
        answer = wire.plain(site.server, "GET", target)
        assert answer.headers.get("X-Content-Type-Options") == "nosniff", target


def test_sec_info_leak_existence_is_not_told_without_permission(site):
    site.put("k", b"x")
    answers = {wire.plain(site.server, "GET", f"/demo/{key}", headers).status
               for key in ("k", "absent")
               for headers in ({}, {"If-Match": '"x"'}, {"If-None-Match": "*"}, {"Range": "bytes=99-"})}
    assert answers == {403}


def test_sec_dns_rebinding_a_page_that_names_another_host_gets_nothing(start, tmp_path):
    victim = Victim(start, tmp_path)
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "10.1.2.3", "[fe80::1]"):
        for method, target, body in (("GET", "/demo/victim", b""), ("PUT", "/demo/new", b"x"),
                                     ("DELETE", "/demo/victim", b""), ("GET", "/", b"")):
            data = victim.request(method, target, body=body).replace(
                f"Host: {victim.host}".encode(), f"Host: {host}".encode())
            assert status(victim.talk(data, 5)[0]) in (400, 403), (host, method)
    for origin in ("http://evil.example", "null", "https://localhost.evil.example", "file://"):
        for method, target, body in (("GET", "/demo/victim", b""), ("PUT", "/demo/new", b"x"),
                                     ("DELETE", "/demo/victim", b""), ("OPTIONS", "/demo/victim", b"")):
            headers = [f"Origin: {origin}", "Access-Control-Request-Method: PUT"]
            answer = victim.ask(method, target, headers, body)
            assert status(answer) == 403, (origin, method, answer)
            assert b"access-control-allow" not in answer.lower()
    assert not (victim.directory / "new").exists()
    victim.assert_whole()


def test_sec_secrets_no_open_server_listens_beyond_loopback(site, tmp_path):
    from lobos import BINARY, clean_environment
    for address in ("0.0.0.0:0", "[::]:0", "192.0.2.1:0"):
        done = subprocess.run([BINARY, "serve", tmp_path / "demo", "--no-auth", "--listen", address],
                              env=clean_environment(tmp_path), capture_output=True, timeout=20)
        assert done.returncode != 0 and b"loopback" in done.stderr, done.stderr

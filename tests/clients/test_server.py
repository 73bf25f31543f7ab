"""The running server: signals, TLS, sockets and notices of a service manager, logs, health."""

import http.client
import json
import os
import pty
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time

import pytest

from lobos import BINARY, Lobos, clean_environment
from test_command_line import wait_until

HEALTH = b"GET /-/readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
HALF_A_PUT = (b"PUT /demo/half HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n"
              b"ten bytes.")


def half_a_put(server):
    """A connection on which a PUT hangs in the middle of its body."""
    connection = socket.create_connection(("127.0.0.1", server.port))
    connection.sendall(HALF_A_PUT)
    time.sleep(0.3)
    return connection


def test_it_stops_in_order_when_its_terminal_is_closed(tmp_path):
    process, terminal = pty.fork()
    if process == 0:
        os.execve(BINARY, [BINARY, "serve", tmp_path / "demo", "--listen", "127.0.0.1:0", "--no-auth"],
                  clean_environment(tmp_path))
    printed = b""
    while b"Starting S3 HTTP server" not in printed:
        printed += os.read(terminal, 1 << 16)
    os.close(terminal)
    _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_p8_it_goes_on_when_its_log_cannot_be_written(tmp_path):
    with open("/dev/full", "wb") as full:
        process = subprocess.Popen(
            [BINARY, "serve", tmp_path / "demo", "--listen", "127.0.0.1:0", "--no-auth"],
            stdout=subprocess.PIPE, stderr=full, env=clean_environment(tmp_path) | {"LOBOS_LOG": "debug"})
    with process:
        while not (address := re.search(rb"127\.0\.0\.1:(\d+)", process.stdout.readline())):
            pass
        port = int(address[1])
        for _ in range(2):
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(HEALTH)
                assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
        process.terminate()
        process.stdout.read()
        assert process.wait(20) == 0


def test_a_second_signal_ends_it_at_once(tmp_path):
    server = Lobos(["serve", tmp_path / "demo", "--listen", "127.0.0.1:0", "--no-auth"],
                   tmp_path / "server")
    with half_a_put(server):
        server.process.terminate()
        time.sleep(0.5)
        assert server.process.poll() is None, "it waits for what is in flight"
        server.process.terminate()
        assert server.process.wait(5) == 130
    assert not (tmp_path / "demo" / "half").exists()


def test_what_does_not_end_is_cut_when_its_time_is_over(start, tmp_path):
    (tmp_path / "lobos.cfg").write_text(
        '[server]\nlisten = "127.0.0.1:0"\nauth = false\n[server.timeouts]\nstop = "2s"\n'
        '[filesystem.buckets]\ndemo = "demo"\n')
    server = start("-c", tmp_path / "lobos.cfg")
    with half_a_put(server):
        server.process.terminate()
        assert server.process.wait(10) == 0
    assert not (tmp_path / "demo" / "half").exists()


def test_an_idle_connection_does_not_delay_the_end(site):
    with socket.create_connection(("127.0.0.1", site.server.port)) as idle:
        idle.sendall(b"GET /-/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert idle.recv(4096).startswith(b"HTTP/1.1 200 ")
        site.server.process.terminate()
        assert site.server.process.wait(5) == 0


def test_health_needs_no_keys(site):
    for path in ("/-/healthz", "/-/readyz"):
        status, headers, body = ask(site.server, "GET", path)
        assert (status, body) == (200, b"ok\n") and "x-amz-request-id" in headers
        assert ask(site.server, "HEAD", path)[0::2] == (200, b"")
        assert ask(site.server, "PUT", path)[0] == 405
    assert ask(site.server, "GET", "/-/other")[0] in (400, 403, 404)


def ask(server, method, path):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request(method, path)
    reply = connection.getresponse()
    answer = reply.status, dict(reply.getheaders()), reply.read()
    connection.close()
    return answer


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_request_is_found_in_the_log_by_its_id(start, tmp_path, form):
    (tmp_path / "lobos.cfg").write_text(
        f'[server]\nlisten = "127.0.0.1:0"\n[log]\nformat = "{form}"\nlevel = "debug"\n'
        '[filesystem.buckets]\ndemo = "demo"\n')
    server = start("-c", tmp_path / "lobos.cfg")
    s3 = server.client()
    put = s3.put_object(Bucket="demo", Key="k", Body=b"x")["ResponseMetadata"]
    status, headers, body = ask(server, "GET", "/demo/k")
    refused = headers["x-amz-request-id"]
    assert status == 403 and refused.encode() in body
    log = server.log.read_text()
    for request in (put["RequestId"], refused):
        lines = [line for line in log.splitlines() if request in line]
        assert lines and "/demo/k" in lines[0], log
    if form == "json":
        entries = [json.loads(line) for line in log.splitlines()]
        assert any(entry["fields"].get("request_id") == refused for entry in entries)
    assert server.secret_key not in log, "no secrets in the log"
    assert "Signature=" not in log and "X-Amz-Signature" not in log


def test_sockets_and_notices_of_a_service_manager(tmp_path):
    """The process gets a listening socket as descriptor 3, and says when it is ready."""
    with socket.socket() as listening, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        notices.bind(str(tmp_path / "notify"))
        notices.settimeout(10)
        environment = clean_environment(tmp_path) | {
            "LISTEN_FDS": "1", "NOTIFY_SOCKET": str(tmp_path / "notify")}
        # LISTEN_PID names the server, which this process becomes.
        become = ("import os, sys; os.dup2(int(sys.argv[1]), 3); "
                  "os.environ['LISTEN_PID'] = str(os.getpid()); os.execv(sys.argv[2], sys.argv[2:])")
        process = subprocess.Popen(
            [sys.executable, "-c", become, str(listening.fileno()), BINARY, "serve",
             tmp_path / "demo", "--listen", "127.0.0.1:1"],
            env=environment, pass_fds=[listening.fileno()], stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True)
        try:
            assert notices.recv(4096) == b"READY=1\n"
            with socket.create_connection(listening.getsockname()) as client:
                client.sendall(HEALTH)
                assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
        finally:
            process.terminate()
            output, errors = process.communicate(timeout=20)
        assert process.returncode == 0, errors
        assert notices.recv(4096) == b"STOPPING=1\n"
        port = listening.getsockname()[1]
        assert f"Starting S3 HTTP server for bucket demo at 127.0.0.1:{port}" in output


def certificate(folder, name):
    """Writes `cert.pem` and `key.pem` for localhost, issued by itself under this name."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "2", "-subj", f"/CN={name}", "-addext",
         "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", folder / "key.pem",
         "-out", folder / "cert.pem"], check=True, capture_output=True)


def common_name(port, alpn=()):
    """The name in the certificate that the server shows, and the protocol that it chose."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(list(alpn) or ["http/1.1"])
    with socket.create_connection(("127.0.0.1", port)) as plain:
        with context.wrap_socket(plain, server_hostname="localhost") as secure:
            name = re.search(rb"(first|second)-name", secure.getpeercert(binary_form=True))
            return name[0].decode(), secure.selected_alpn_protocol()


def test_tls_serves_and_reads_its_certificate_again(start, lobos_cfg_with_tls, tmp_path):
    server = start("-c", lobos_cfg_with_tls)
    assert f"endpoint: https://127.0.0.1:{server.port}" in server.printed()
    s3 = server.client(endpoint=f"https://localhost:{server.port}",
                       verify=str(tmp_path / "cert.pem"), s3={"addressing_style": "path"})
    s3.put_object(Bucket="demo", Key="k", Body=b"by tls")
    assert s3.get_object(Bucket="demo", Key="k")["Body"].read() == b"by tls"
    assert common_name(server.port, ["h2", "http/1.1"]) == ("first-name", "h2")
    assert common_name(server.port) == ("first-name", "http/1.1")

    certificate(tmp_path, "second-name")
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: common_name(server.port)[0] == "second-name")

    (tmp_path / "key.pem").write_text("no key")
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "key.pem" in server.log.read_text())
    assert common_name(server.port)[0] == "second-name", "the old one stays"


@pytest.fixture
def lobos_cfg_with_tls(tmp_path):
    certificate(tmp_path, "first-name")
    (tmp_path / "lobos.cfg").write_text(
        '[server]\nlisten = "127.0.0.1:0"\n[tls]\ncert = "cert.pem"\nkey = "key.pem"\n'
        '[filesystem.buckets]\ndemo = "demo"\n')
    return tmp_path / "lobos.cfg"


def test_certificates_that_do_not_fit_are_refused_before_anything_is_served(
        lobos_cfg_with_tls, tmp_path):
    cert = (tmp_path / "cert.pem").read_bytes()
    certificate(tmp_path, "second-name")
    (tmp_path / "cert.pem").write_bytes(cert)
    for arguments in (["check-config", "-c"], ["-c"]):
        done = subprocess.run([BINARY, *arguments, lobos_cfg_with_tls], capture_output=True,
                              text=True, timeout=20, env=clean_environment(tmp_path))
        assert done.returncode == 1 and "cert.pem" in done.stderr and "key.pem" in done.stderr
    assert not (tmp_path / "demo").exists(), "nothing was made"


def test_a_client_without_tls_is_told_nothing_and_harms_nothing(start, lobos_cfg_with_tls):
    server = start("-c", lobos_cfg_with_tls)
    with socket.create_connection(("127.0.0.1", server.port)) as plain:
        plain.settimeout(10)
        plain.sendall(HEALTH)
        assert b"200" not in plain.recv(4096)
    assert common_name(server.port)[0] == "first-name"

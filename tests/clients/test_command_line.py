"""The program itself: arguments, exit codes, messages, banner, signals."""

import http.client
import os
import re
import select
import shlex
import signal
import socket
import stat
import subprocess
import time

import pytest

import wire
from lobos import AWS, BINARY, REPOSITORY, Lobos, answers, clean_environment, run
from test_boto3_objects import refused


@pytest.fixture
def lobos(tmp_path):
    """`lobos(*arguments)`: runs the program to its end; (status, stdout, stderr)."""
    def lobos(*arguments, **environment):
        done = subprocess.run(
            [BINARY, *map(str, arguments)], env=clean_environment(tmp_path) | environment,
            cwd=tmp_path, capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL)
        return done.returncode, done.stdout, done.stderr
    return lobos


def test_without_arguments(lobos):
    status, _, error = lobos()
    assert status == 2
    assert error.splitlines()[0] == (
        "Error: --config is required (or name a directory: lobos serve DIR)")
    assert "Usage" in error


def test_version_and_help(lobos):
    status, version, _ = lobos("-V")
    assert status == 0 and re.fullmatch(r"lobos \d+\.\d+\.\d+\S*\n", version)
    status, text, _ = lobos("--help")
    assert status == 0
    for word in ("serve", "check-config", "keygen", "credentials"):
        assert word in text
    status, text, _ = lobos("serve", "--help")
    assert status == 0
    for flag in ("--root", "--listen", "--domain", "--no-auth", "--state-dir", "--bucket"):
        assert flag in text


def test_unknown_arguments(lobos):
    assert lobos("serve", "--no-such-flag")[0] == 2
    assert lobos("frobnicate")[0] == 2


@pytest.mark.parametrize("name", ["UPPER", "a_b", "ab", "with space", "192.168.1.1"])
def test_a_directory_that_cannot_name_a_bucket(lobos, tmp_path, name):
    status, _, error = lobos("serve", tmp_path / name, "--listen", "127.0.0.1:0")
    assert status not in (0, None)
    assert re.search(r"--bucket NAME=\S*" + re.escape(name.split()[0]), error), error
    assert not (tmp_path / name).exists()


def test_the_proposed_bucket_flag_works(start, tmp_path):
    (tmp_path / "My Files").mkdir()
    (tmp_path / "My Files" / "k").write_bytes(b"x")
    server = start("serve", "--bucket", f"files={tmp_path / 'My Files'}", "--listen", "127.0.0.1:0")
    assert server.client().get_object(Bucket="files", Key="k")["Body"].read() == b"x"


def test_several_directories(start, lobos, tmp_path):
    server = start("serve", tmp_path / "one", tmp_path / "two", "--listen", "127.0.0.1:0")
    names = [bucket["Name"] for bucket in server.client().list_buckets()["Buckets"]]
    assert names == ["one", "two"] and (tmp_path / "two").is_dir(), "missing ones are created"
    for second in (tmp_path / "other" / "one", tmp_path / "one" / "inside"):
        second.mkdir(parents=True)
        status, _, error = lobos("serve", tmp_path / "one", second, "--listen", "127.0.0.1:0")
        assert status not in (0, None) and "one" in error


def test_serve_dot(tmp_path):
    home = tmp_path / "here"
    server = Lobos(["serve", ".", "--listen", "127.0.0.1:0"], home)
    try:
        assert [b["Name"] for b in server.client().list_buckets()["Buckets"]] == ["here"]
    finally:
        server.stop()


def test_no_auth_binds_loopback_only(lobos, tmp_path):
    for address in ("0.0.0.0:0", "[::]:0"):
        status, _, error = lobos("serve", tmp_path / "demo", "--no-auth", "--listen", address)
        assert status not in (0, None)
        assert "authentication" in error and "loopback" in error
    (tmp_path / "lobos.cfg").write_text(
        '[server]\nlisten = "0.0.0.0:0"\nauth = false\n[filesystem.buckets]\ndemo = "demo"\n')
    assert lobos("-c", tmp_path / "lobos.cfg")[0] not in (0, None)


def test_check_config(lobos, tmp_path):
    config = tmp_path / "lobos.cfg"
    config.write_text('[server]\nlisten = "127.0.0.1:0"\n[filesystem.buckets]\ndemo = "demo"\n')
    assert lobos("check-config", "-c", config)[0] == 0
    assert not (tmp_path / "demo").exists(), "checking serves nothing"
    config.write_text('[server]\nlisten = "127.0.0.1:0"\n\nlissten = "127.0.0.1:1"\n')
    status, _, error = lobos("check-config", "-c", config)
    assert status not in (0, None)
    assert "line 4" in error and "lissten" in error and "listen" in error
    config.write_text('[filesystem.buckets]\ndemo = "demo"\n[server]\nthreads = "many"\n')
    status, _, error = lobos("check-config", "-c", config)
    assert status not in (0, None) and "line 4" in error and "threads" in error
    assert lobos("-c", config)[0] not in (0, None)
    status, _, error = lobos("check-config", "-c", tmp_path / "missing.cfg")
    assert status not in (0, None) and "missing.cfg" in error


def test_the_sample_config_is_legal(lobos):
    status, _, error = lobos("check-config", "-c", REPOSITORY / "lobos.cfg")
    assert status == 0, error


def test_a_config_file_serves(start, tmp_path):
    (tmp_path / "secret").write_text("the-secret-of-ann\n")
    (tmp_path / "secret").chmod(0o600)
    (tmp_path / "lobos.cfg").write_text("""
[server]
listen = ["127.0.0.1:0"]
region = "eu-west-7"
state_dir = "state"
[filesystem]
root = "buckets"
[[auth.user]]
name = "ann"
access_key = "annskey"
secret_key_file = "secret"
[[auth.user]]
name = "bob"
id = "bobs-id"
access_key = "bobskey"
secret_key = "the-secret-of-bob"
""")
    for arguments in (["-c", tmp_path / "lobos.cfg"], ["serve", "-c", tmp_path / "lobos.cfg"]):
        server = start(*arguments, keys=False)
        ann = server.client(
            access_key="annskey", secret_key="the-secret-of-ann", region="eu-west-7")
        bob = server.client(
            access_key="bobskey", secret_key="the-secret-of-bob", region="eu-west-7")
        names = {bucket["Name"] for bucket in ann.list_buckets()["Buckets"]}
        if "anns" not in names:
            ann.create_bucket(
                Bucket="anns", CreateBucketConfiguration={"LocationConstraint": "eu-west-7"})
        ann.put_object(Bucket="anns", Key="k", Body=b"x")
        assert refused(bob.get_object, Bucket="anns", Key="k")[:2] == (403, "AccessDenied")
        assert refused(bob.list_objects_v2, Bucket="anns")[:2] == (403, "AccessDenied")
        assert refused(bob.create_bucket, Bucket="anns", CreateBucketConfiguration={
            "LocationConstraint": "eu-west-7"})[:2] == (409, "BucketAlreadyExists")
        assert bob.list_buckets()["Owner"]["ID"] == "bobs-id"
        assert bob.list_buckets()["Buckets"] == []
        server.stop()


def test_keygen(lobos):
    first, second = lobos("keygen"), lobos("keygen")
    assert first[0] == 0 and first[1] != second[1] and len(first[1].split()) >= 2


def test_a_generated_pair_is_kept_and_printed_again(start, lobos, tmp_path):
    state = tmp_path / "kept-state"
    arguments = ["serve", tmp_path / "demo", "--listen", "127.0.0.1:0", "--state-dir", state]
    server = start(*arguments, keys=False)
    status, printed, _ = lobos("credentials", "--state-dir", state)
    assert status == 0
    key, secret = credentials(printed)
    server.client(access_key=key, secret_key=secret).put_object(Bucket="demo", Key="k", Body=b"x")
    holders = [path for path in state.rglob("*") if path.is_file() and secret in read(path)]
    assert len(holders) == 1
    assert stat.S_IMODE(holders[0].stat().st_mode) == 0o600
    everything = server.printed() + server.log.read_text()
    assert secret not in everything, "the secret goes to a terminal only"
    assert str(holders[0]) in everything, "elsewhere the path of its file is named"
    server.stop()
    again = start(*arguments, keys=False).client(access_key=key, secret_key=secret)
    assert again.get_object(Bucket="demo", Key="k")["Body"].read() == b"x"


def read(path):
    return path.read_bytes().decode(errors="replace")


def credentials(printed):
    """The pair in what `lobos credentials` prints, in whatever words."""
    key = re.search(r"(?i)access[_ ]key(?:[_ ]id)?\W+([A-Za-z0-9]{8,})", printed)
    secret = re.search(r"(?i)secret[_ ](?:access[_ ])?key\W+([A-Za-z0-9/+_-]{20,})", printed)
    assert key and secret, printed
    return key.group(1), secret.group(1)


def test_the_keys_of_the_environment_are_the_ones_that_are_printed(lobos, tmp_path):
    root = {"LOBOS_ROOT_USER": "theenvuser", "LOBOS_ROOT_PASSWORD": "the-secret-of-the-environment"}
    state = tmp_path / "nowhere"
    status, printed, error = lobos("credentials", "--state-dir", state, **root)
    assert status == 0, error
    assert credentials(printed) == ("theenvuser", "the-secret-of-the-environment")
    status, _, error = lobos("credentials", "--state-dir", state)
    assert status == 1 and "no key pair" in error
    assert not state.exists(), "asking makes nothing"


@pytest.mark.parametrize("text, line, words", [
    ('[filesystem.buckets]\nAB = "x"\n', 2, "`filesystem.buckets.AB`"),
    ('[filesystem.buckets]\ndemo = "x"\n[[auth.user]]\nname = "a"\naccess_key = "aaa"\n'
     'secret_key = "long enough"\n[[auth.user]]\nname = "b"\naccess_key = "bbb"\n'
     'secret_key = "short"\n', 10, "`auth.user[2].secret_key`"),
    ('[filesystem.buckets]\ndemo = "x"\n[auth.root]\naccess_key = "aaa"\n'
     'secret_key = "longenough"\nsecret_key_file = "x"\n', 5, "`auth.root.secret_key_file`"),
    ('[filesystem.buckets]\ndemo = "x"\n[server]\nlisten = "0.0.0.0:0"\nauth = false\n', 5,
     "`server.auth`"),
    ('[filesystem.buckets]\ndemo = "x"\n[tls]\ncert = "missing"\nkey = "k"\n', 4, "`tls.cert`"),
])
def test_an_error_in_the_file_names_line_and_key(lobos, tmp_path, text, line, words):
    config = tmp_path / "lobos.cfg"
    config.write_text(text.replace("long enough", "longenough"))
    status, _, error = lobos("check-config", "-c", config)
    assert status == 1 and f"line {line}:" in error and words in error, error


def test_secrets_that_everybody_can_read_are_a_warning(lobos, tmp_path):
    config = tmp_path / "lobos.cfg"
    config.write_text('[filesystem.buckets]\ndemo = "x"\n[auth.root]\naccess_key = "aaa"\n'
                      'secret_key = "longenough"\n')
    config.chmod(0o640)
    status, _, error = lobos("check-config", "-c", config)
    assert (status, error) == (0, "")
    config.chmod(0o644)
    status, _, error = lobos("check-config", "-c", config)
    assert status == 0 and "chmod o-rwx" in error and "longenough" not in error


def test_an_unwritable_state_directory_names_the_flag(lobos, tmp_path):
    (tmp_path / "file").write_text("")
    status, _, error = lobos("serve", tmp_path / "demo", "--listen", "127.0.0.1:0",
                             XDG_STATE_HOME=str(tmp_path / "file"), HOME=str(tmp_path / "file"))
    assert status not in (0, None) and "--state-dir" in error


def test_what_is_printed_without_a_terminal(site):
    lines = site.server.printed().splitlines()
    assert any(re.search(rf"Starting S3 HTTP server for bucket demo at \S*127\.0\.0\.1:{site.server.port}",
                         line) for line in lines)
    assert str(site.directory) in site.server.printed()
    assert "strict" in site.server.printed()


def test_the_pasted_block_works(tmp_path):
    """On a terminal Lobos prints lines for a shell; they are pasted into one, as they are."""
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "found.txt").write_text("here")
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "aws").write_text(f'#!/bin/sh\nexec {shlex.join(AWS)} "$@"\n')
    (commands / "aws").chmod(0o755)
    environment = clean_environment(tmp_path)
    master, slave = os.openpty()
    process = subprocess.Popen(
        [BINARY, "serve", tmp_path / "demo", "--listen", "127.0.0.1:0"], stdin=slave, stdout=slave,
        stderr=slave, env=environment | {"TERM": "xterm"}, cwd=tmp_path)
    os.close(slave)
    try:
        banner = read_until(master, rb"aws s3 ls s3://demo[^\n]*\n").decode()
        text = re.sub(r"\x1b\[[0-9;]*m", "", banner).replace("\r", "")
        block = [line.strip() for line in text.splitlines()
                 if line.strip().startswith(("export ", "aws "))]
        assert block[-1] == "aws s3 ls s3://demo"
        listed = run(["sh", "-ec", "\n".join(block)], environment | {
            "PATH": f"{commands}:{environment['PATH']}", "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull})
        assert listed.split()[-2:] == ["4", "found.txt"]
    finally:
        process.send_signal(signal.SIGINT)
        status = process.wait(20)
        os.close(master)
    assert status == 0, "SIGINT ends it well"


def read_until(descriptor, pattern, seconds=10):
    text, deadline = b"", time.monotonic() + seconds
    while not re.search(pattern, text) and time.monotonic() < deadline:
        if select.select([descriptor], [], [], 0.2)[0]:
            try:
                text += os.read(descriptor, 65536)
            except OSError:
                break
    assert re.search(pattern, text), text.decode(errors="replace")
    return text


def test_quiet(start, tmp_path):
    port = free_port()
    server = subprocess.Popen(
        [BINARY, "serve", tmp_path / "demo", "--quiet", "--listen", f"127.0.0.1:{port}"],
        env=clean_environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        # The kernel connects before the server is there to take signals: only an answer counts.
        wait_until(lambda: answers(socket.AF_INET, ("127.0.0.1", port)))
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET /-/readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
    finally:
        server.terminate()
        output, _ = server.communicate(timeout=20)
    assert output == "" and server.returncode == 0


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_a_port_that_is_taken(site, lobos, tmp_path):
    status, _, error = lobos("serve", tmp_path / "x-dir", "--listen", f"127.0.0.1:{site.server.port}")
    assert status not in (0, None) and str(site.server.port) in error


def test_a_unix_socket(start, tmp_path):
    path = tmp_path / "s3.sock"
    start("serve", tmp_path / "demo", "--listen", f"unix:{path}")
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(path))
        client.sendall(b"GET /-/readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_sigterm_finishes_what_is_in_flight(start, tmp_path, payload):
    """A PUT whose body is half sent when the signal comes is still answered."""
    server = start("serve", tmp_path / "demo", "--listen", "127.0.0.1:0")
    data = payload(4 << 20)
    headers = wire.Signer(server).sign(
        "PUT", "/demo/k", "", {}, "UNSIGNED-PAYLOAD", f"127.0.0.1:{server.port}")

    def body():
        yield data[:len(data) // 2]
        server.process.terminate()
        wait_until(lambda: not answers(socket.AF_INET, ("127.0.0.1", server.port)))
        yield data[len(data) // 2:]

    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("PUT", "/demo/k", body(), headers | {"Content-Length": str(len(data))})
    assert connection.getresponse().status == 200
    connection.close()
    assert server.process.wait(20) == 0
    assert (tmp_path / "demo" / "k").read_bytes() == data


def test_a_comma_in_a_path_is_part_of_it(start, tmp_path):
    server = start("serve", "--bucket", f"pics={tmp_path}/a,b", "--listen", "127.0.0.1:0")
    server.client().put_object(Bucket="pics", Key="k", Body=b"x")
    assert (tmp_path / "a,b" / "k").read_bytes() == b"x"


def test_the_root_user_of_other_servers_is_accepted(start, tmp_path):
    environment = {"MINIO_ROOT_USER": "miniouser", "MINIO_ROOT_PASSWORD": "miniopassword"}
    server = start("serve", tmp_path / "demo", "--listen", "127.0.0.1:0", keys=False,
                   environment=environment)
    s3 = server.client(access_key="miniouser", secret_key="miniopassword")
    assert [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]] == ["demo"]


@pytest.mark.parametrize("words", [["keygen"], ["ctl", "completions", "bash"]])
def test_what_cannot_be_written_is_an_error_and_a_reader_that_leaves_is_none(words):
    def ended(stdout):
        done = subprocess.run([BINARY, *words], stdout=stdout, stderr=subprocess.PIPE, text=True,
                              timeout=30)
        return done.returncode, done.stderr

    with open("/dev/full", "w") as full:
        status, error = ended(full)
    assert status == 1 and error.startswith("Error: cannot write to standard output: "), error
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert ended(writer) == (0, "")
    finally:
        os.close(writer)


TWINS = ("LOBOS_CONFIG", "LOBOS_BUCKETS", "LOBOS_ROOT", "LOBOS_LISTEN", "LOBOS_DOMAIN",
         "LOBOS_AUTH", "LOBOS_REGION", "LOBOS_DURABILITY", "LOBOS_THREADS", "LOBOS_STATE_DIR",
         "LOBOS_LOG", "LOBOS_ROOT_USER", "LOBOS_ROOT_PASSWORD", "MINIO_ROOT_USER",
         "MINIO_ROOT_PASSWORD")


def test_a_container_says_everything_by_its_environment(start, tmp_path):
    server = start(environment={
        "LOBOS_BUCKETS": f"one={tmp_path / 'a'},two={tmp_path / 'b'}",
        "LOBOS_ROOT": str(tmp_path / "root"),
        "LOBOS_LISTEN": "127.0.0.1:0",
        "LOBOS_REGION": "eu-west-7",
        "LOBOS_DURABILITY": "relaxed",
        "LOBOS_THREADS": "1",
        "LOBOS_STATE_DIR": str(tmp_path / "kept"),
    })
    names = [bucket["Name"] for bucket in server.client().list_buckets()["Buckets"]]
    assert names == ["one", "two"]
    assert "durability: relaxed\n" in server.printed() and "eu-west-7" in server.printed()
    assert (tmp_path / "kept" / "installation").is_file()


def test_a_variable_that_is_set_to_nothing_counts_as_not_set(start, tmp_path):
    server = start("serve", tmp_path / "demo", "--listen", "127.0.0.1:0", keys=False,
                   environment=dict.fromkeys(TWINS, ""))
    assert "auth: required" in server.printed()


def test_the_command_line_wins_over_the_environment(start, lobos, tmp_path):
    arguments = ["serve", tmp_path / "demo", "--listen", "127.0.0.1:0"]
    assert "auth: off" in start(*arguments, "--no-auth", environment={"LOBOS_AUTH": "true"}).printed()
    assert "auth: required" in start(*arguments, "--auth", environment={"LOBOS_AUTH": "false"}).printed()
    assert "auth: off" in start(*arguments, environment={"LOBOS_AUTH": "false"}).printed()
    status, _, error = lobos(*arguments, LOBOS_AUTH="maybe")
    assert status == 1 and "LOBOS_AUTH" in error and "maybe" in error

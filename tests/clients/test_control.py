"""The control plane over gRPC: users who come and go, and callers who may not."""

import encodings.idna  # noqa: F401 -- a child that is another user cannot read it any more
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import traceback

import pytest
from botocore.exceptions import ClientError

from controlled import (
    Controlled, eventually_works, grpc_call, in_terminal, refused, site_error, traffic)
from lobos import AWS, BINARY, REPOSITORY, clean_environment, client_environment, run

PROTO = REPOSITORY / "proto" / "loboscontrol.proto"
STRANGER = 1234
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")


@pytest.fixture
def site(start, tmp_path):
    return Controlled(start, tmp_path)


def grpcurl():
    found = shutil.which("grpcurl", path=f"{os.environ['PATH']}:{os.path.expanduser('~/go/bin')}")
    if not found:
        pytest.skip("grpcurl is not installed")
    return found


def test_grpcurl_makes_a_user_whose_keys_work_at_once(site):
    command = [grpcurl(), "-plaintext"]
    call = [site.address.replace("127.0.0.1", "localhost"), "loboscontrol.ControlPlane/AddUser"]
    for name, how in [("alram", ["-proto", PROTO.relative_to(REPOSITORY)]), ("berta", [])]:
        asked = [*command, "-d", json.dumps({"name": name}), *how, *call]
        params = json.loads(run(asked, clean_environment(site.home), cwd=REPOSITORY))["params"]
        assert params.keys() == {"name", "key", "secret", "backend"}
        assert params["name"] == name and params["backend"] == "data"
        assert re.fullmatch("LB[A-Z0-9]{18}", params["key"])
        assert re.fullmatch("[A-Za-z0-9]{40}", params["secret"])
        s3 = site.client({"access_key": params["key"], "secret_key": params["secret"]})
        s3.put_object(Bucket="data", Key=name, Body=b"x")
        assert s3.get_object(Bucket="data", Key=name)["Body"].read() == b"x"
        assert params["secret"] not in site.server.log.read_text()
    listed = run([*command, call[0], "list"], clean_environment(site.home)).split()
    assert set(listed) >= {"loboscontrol.ControlPlane", "grpc.health.v1.Health"}
    healthy = run([*command, call[0], "grpc.health.v1.Health/Check"], clean_environment(site.home))
    assert json.loads(healthy)["status"] == "SERVING"
    twice = [*command, "-d", '{"name": "alram"}', *call]
    failed = subprocess.run(twice, env=clean_environment(site.home), capture_output=True, text=True)
    assert failed.returncode != 0 and "AlreadyExists" in failed.stderr
    wrong = [*command, "-d", '{"name": "a b"}', *call]
    failed = subprocess.run(wrong, env=clean_environment(site.home), capture_output=True, text=True)
    assert "InvalidArgument" in failed.stderr and '"field": "name"' in failed.stderr


def test_the_aws_cli_works_with_new_keys_at_once_and_with_old_ones_no_more(site):
    """Another process for each request: what counts is what the server knows, not a connection."""
    def aws(pair, *arguments, status=0):
        environment = client_environment(
            site.server, site.home, AWS_ACCESS_KEY_ID=pair["access_key"],
            AWS_SECRET_ACCESS_KEY=pair["secret_key"])
        done = subprocess.run([*AWS, "s3api", *arguments], env=environment, capture_output=True,
                              text=True, timeout=60)
        assert (done.returncode == 0) == (status == 0), done
        return done.stderr

    ann = site.json("user", "add", "ann")
    body = site.home / "body"
    body.write_bytes(b"1")
    aws(ann, "put-object", "--bucket", "data", "--key", "k", "--body", str(body))
    fresh = site.json("user", "rotate", "ann")
    head = ["head-object", "--bucket", "data", "--key", "k"]
    get = ["get-object", "--bucket", "data", "--key", "k", str(site.home / "got")]
    assert "InvalidAccessKeyId" in aws(ann, *get, status=1)
    aws(fresh, *head)
    site.ctl("user", "rm", "ann")
    assert "InvalidAccessKeyId" in aws(fresh, *get, status=1)


def test_a_change_of_a_user_counts_for_the_next_request(site):
    ann, s3 = site.add("ann")
    s3.put_object(Bucket="data", Key="a", Body=b"1")
    site.ctl("user", "disable", "ann")
    assert refused(s3.get_object, Bucket="data", Key="a") == "InvalidAccessKeyId"
    site.ctl("user", "enable", "ann")
    s3.get_object(Bucket="data", Key="a")
    fresh = site.json("user", "rotate", "ann")
    assert refused(s3.get_object, Bucket="data", Key="a") == "InvalidAccessKeyId"
    renewed = site.client(fresh)
    renewed.get_object(Bucket="data", Key="a")
    short = site.json("user", "add-key", "ann", "--lifetime", "1s")
    brief = site.client(short)
    brief.get_object(Bucket="data", Key="a")
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            brief.get_object(Bucket="data", Key="a")
            time.sleep(0.1)
        except ClientError as error:
            assert error.response["Error"]["Code"] == "InvalidAccessKeyId"
            break
    else:
        raise AssertionError("the key never ended")
    site.ctl("user", "rm", "ann")
    assert refused(renewed.get_object, Bucket="data", Key="a") == "InvalidAccessKeyId"
    assert "there is no user" in site_error(site, "user", "show", "ann")
    log = site.server.log.read_text()
    for pair in (ann, fresh, short):
        assert pair["secret_key"] not in log
    assert log.count("lobos::audit") >= 6 and "uid " in log


def test_a_user_without_a_policy_may_work_everywhere_and_one_with_none_in_its_own(site):
    _, everywhere = site.add("ann")
    _, nowhere = site.add("bob", "--policy", "none")
    site.ctl("bucket", "create", "bobs", "--owner", "bob")
    for bucket in ("data", "bobs"):
        everywhere.put_object(Bucket=bucket, Key="k", Body=b"1")
        everywhere.list_objects_v2(Bucket=bucket)
    nowhere.put_object(Bucket="bobs", Key="k", Body=b"2")
    assert refused(nowhere.get_object, Bucket="data", Key="k") == "AccessDenied"
    assert [b["Name"] for b in nowhere.list_buckets()["Buckets"]] == ["bobs"]
    site.ctl("user", "policy", "bob", "--policy", "readwrite")
    nowhere.get_object(Bucket="data", Key="k")
    assert site.json("user", "policy", "bob") == "readwrite"


def test_a_policy_counts_from_the_next_request(site, tmp_path):
    _, s3 = site.add("ann", "--policy", "readonly")
    site.server.client().put_object(Bucket="data", Key="k", Body=b"1")
    s3.get_object(Bucket="data", Key="k")
    assert refused(s3.put_object, Bucket="data", Key="k2", Body=b"2") == "AccessDenied"
    site.ctl("user", "policy", "ann", "--policy", "writeonly")
    s3.put_object(Bucket="data", Key="k2", Body=b"2")
    assert refused(s3.get_object, Bucket="data", Key="k") == "AccessDenied"
    document = {"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::data/*"},
        {"Effect": "Deny", "Action": "*", "Resource": "arn:aws:s3:::data/k2"}]}
    file = tmp_path / "policy.json"
    file.write_text(json.dumps(document))
    site.ctl("user", "policy", "ann", "--policy-file", file)
    assert site.json("user", "policy", "ann") == document
    s3.get_object(Bucket="data", Key="k")
    for call, more in [(s3.get_object, {"Key": "k2"}), (s3.delete_object, {"Key": "k"})]:
        assert refused(call, Bucket="data", **more) == "AccessDenied"
    for wrong in ["{", '{"Statement": 7}', json.dumps(document).replace("Allow", "Maybe")]:
        file.write_text(wrong)
        assert "policy" in site_error(site, "user", "policy", "ann", "--policy-file", file)
    assert site.json("user", "policy", "ann") == document
    assert "none of" in site_error(site, "user", "policy", "ann", "--policy", "everything")


def test_what_another_process_changes_counts_within_a_second(start, tmp_path):
    shared = tmp_path / "shared"
    one, two = Controlled(start, shared), Controlled(start, shared)
    _, s3 = one.add("ann")
    there = two.client({
        "access_key": s3._request_signer._credentials.access_key,
        "secret_key": s3._request_signer._credentials.secret_key,
    })
    eventually(lambda: there.list_objects_v2(Bucket="data"))
    one.ctl("user", "rm", "ann")
    eventually(lambda: refused(there.list_objects_v2, Bucket="data"))


def eventually(check):
    deadline = time.monotonic() + 10
    while True:
        try:
            return check()
        except (ClientError, pytest.fail.Exception):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def test_users_of_the_configuration_are_shown_and_stay_as_they_are(start, tmp_path):
    site = Controlled(start, tmp_path, auth="""
        [[auth.user]]
        name = "eve"
        access_key = "EVEKEY"
        secret_key = "eve-has-a-secret"
    """)
    sources = {user["name"]: user["source"] for user in site.json("user", "list")}
    assert sources == {"root": "root", "eve": "configured"}
    assert "configuration file" in site_error(site, "user", "rm", "eve")
    assert "already" in site_error(site, "user", "add", "eve")


@pytest.mark.parametrize("damage", ["truncated", "exposed", "newer", "unreadable", "deep"])
def test_a_server_does_not_start_with_users_that_it_cannot_trust(start, tmp_path, damage):
    site = Controlled(start, tmp_path)
    site.add("ann")
    site.server.stop()
    users = tmp_path / "state" / "users.json"
    if damage == "truncated":
        os.truncate(users, 40)
    elif damage == "exposed":
        users.chmod(0o644)
    elif damage == "deep":
        users.write_text("[" * 1_000_000)
    elif damage == "unreadable":
        # Root reads whatever the mode says; nobody reads a directory.
        users.unlink()
        users.mkdir()
    else:
        users.write_text(users.read_text().replace('"version": 1', '"version": 99'))
    before = users.is_file() and users.read_bytes()
    with pytest.raises(AssertionError, match="users.json"):
        Controlled(start, tmp_path)
    assert (users.is_file() and users.read_bytes()) == before


@pytest.mark.parametrize("damage", ["truncated", "exposed"])
def test_users_that_can_no_longer_be_trusted_are_locked_out_until_they_can(site, damage):
    _, s3 = site.add("ann")
    s3.list_objects_v2(Bucket="data")
    users = site.home / "state" / "users.json"
    whole = users.read_bytes()
    if damage == "truncated":
        os.truncate(users, len(whole) // 2)
    else:
        users.chmod(0o644)
    eventually_works(lambda: locked_out(s3))
    assert "users.json" in site_error(site, "user", "add", "bob")
    assert "users.json" in site_error(site, "config", "reload")
    assert damage == "exposed" or users.read_bytes() != whole
    site.server.client().list_objects_v2(Bucket="data")
    users.write_bytes(whole)
    users.chmod(0o600)
    eventually_works(lambda: not locked_out(s3))
    assert [user["name"] for user in site.json("user", "list")] == ["ann", "root"]


def locked_out(s3):
    try:
        s3.list_objects_v2(Bucket="data")
        return False
    except ClientError as error:
        assert error.response["Error"]["Code"] == "InvalidAccessKeyId"
        return True


def test_two_processes_that_edit_users_at_once_lose_nobody(start, tmp_path):
    shared = tmp_path / "shared"
    sites = [Controlled(start, shared), Controlled(start, shared)]
    failures = []

    def edit(site, side):
        try:
            for number in range(6):
                site.ctl("user", "add", f"{side}-{number}")
                site.ctl("user", "disable", f"{side}-{number}")
            site.ctl("user", "rm", f"{side}-0")
        except BaseException as failure:  # noqa: BLE001 -- told by the test's own thread
            failures.append(failure)

    threads = [threading.Thread(target=edit, args=pair) for pair in zip(sites, "ab")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]
    wanted = {f"{side}-{number}": False for side in "ab" for number in range(1, 6)}
    for site in sites:
        users = site.json("user", "list")
        assert {u["name"]: u["enabled"] for u in users if u["source"] == "stored"} == wanted


ADD_USER = grpc_call("/loboscontrol.ControlPlane/AddUser", b"\x0a\x05thief")


def as_stranger(work):
    """Runs `work` in a child that is another user, and answers the bytes that it gave."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgid(STRANGER)
            os.setuid(STRANGER)
            try:
                os.write(writer, work() or b"-")
            except OSError:
                # Closed by the server, which is a refusal too.
                os.write(writer, b"closed")
            except BaseException:
                traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        given = pipe.read()
    os.waitpid(child, 0)
    assert given, "the child failed"
    return given


def send_and_close(address):
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host.strip("[]"), int(port)), 10) as connection:
        connection.sendall(ADD_USER)


def send_and_stay(address):
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host.strip("[]"), int(port)), 10) as connection:
        connection.sendall(ADD_USER)
        return read_to_the_end(connection)


def read_to_the_end(connection):
    """What comes until the peer closes, or nothing more for two seconds."""
    connection.settimeout(2)
    got = b""
    try:
        while piece := connection.recv(65536):
            got += piece
    except OSError:
        pass
    return got


@pytest.fixture
def strangers():
    """`strangers(site, *arguments)`: `lobos ctl` as another user, and what it came to."""
    folder = tempfile.mkdtemp(prefix="lobos-stranger-")
    os.chmod(folder, 0o755)
    program = shutil.copy(BINARY, folder)

    def ctl(site, *arguments):
        return subprocess.run(
            [program, "ctl", "--address", site.address, *arguments], capture_output=True, text=True,
            env=clean_environment(site.home), user=STRANGER, group=STRANGER, extra_groups=[],
            cwd="/", timeout=60)

    ctl.folder = folder
    yield ctl
    shutil.rmtree(folder)


@needs_root
@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:0"])
def test_sec_caller_another_user_is_refused_whether_it_stays_or_leaves_at_once(
        start, tmp_path, strangers, address):
    if address.startswith("[") and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    site = Controlled(start, tmp_path, address)
    done = strangers(site, "user", "add", "thief")
    assert done.returncode == 1 and "may not call" in done.stderr, done
    as_stranger(lambda: send_and_stay(site.address))
    for _ in range(30):
        as_stranger(lambda: send_and_close(site.address))
    # The same calls from a user who may do what they ask.
    assert [user["name"] for user in site.json("user", "list")] == ["root"]
    send_and_stay(site.address)
    assert [user["name"] for user in site.json("user", "list")] == ["root", "thief"]
    assert "a call of the control plane was refused" in site.server.log.read_text()
    assert f"uid {STRANGER}" in site.server.log.read_text()


def has_ipv6():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        return True
    except OSError:
        return False


@needs_root
def test_sec_caller_another_user_is_refused_at_a_unix_socket(start, tmp_path, strangers):
    site = Controlled(start, tmp_path, f"unix:{strangers.folder}/control.sock")
    os.chmod(site.address.removeprefix("unix:"), 0o777)
    done = strangers(site, "user", "add", "thief")
    assert done.returncode == 1 and "may not call" in done.stderr, done
    assert [user["name"] for user in site.json("user", "list")] == ["root"]


@needs_root
def test_a_stranger_with_the_token_is_let_in(start, tmp_path, strangers):
    token = tmp_path / "token"
    token.write_text("an-operators-long-token\n")
    token.chmod(0o600)
    site = Controlled(start, tmp_path, more=f'token_file = "{token}"')
    done = strangers(site, "info")
    assert done.returncode == 1 and "needs the token" in done.stderr, done
    for name, text, status in [("right", "an-operators-long-token", 0), ("wrong", "x" * 23, 1)]:
        own = os.path.join(strangers.folder, name)
        with open(own, "w") as file:
            file.write(text)
        os.chown(own, STRANGER, STRANGER)
        done = strangers(site, "info", "--token-file", own)
        assert done.returncode == status, done
    assert "an-operators-long-token" not in site.server.log.read_text()


@needs_root
def test_strangers_that_say_nothing_leave_room_for_those_with_the_token(start, tmp_path, strangers):
    token = tmp_path / "token"
    token.write_text("an-operators-long-token\n")
    token.chmod(0o600)
    site = Controlled(start, tmp_path, more=f'token_file = "{token}"')
    own = shutil.copy(token, strangers.folder)
    os.chown(own, STRANGER, STRANGER)
    host, port = site.address.split(":")

    def many():
        """More than there are places for; what is left of them when they have been closed."""
        silent = [socket.create_connection((host, int(port)), 10) for _ in range(40)]
        for connection in silent:
            connection.settimeout(20)
            try:
                while connection.recv(65536):
                    pass
            except ConnectionError:
                pass
        return b"all closed"

    assert as_stranger(many) == b"all closed"
    done = strangers(site, "info", "--token-file", own)
    assert done.returncode == 0, done
    refusals = site.server.log.read_text().count("too many connections")
    assert 1 <= refusals <= 3, "a line a second at most"
    # One that showed the token stays: this goes on for longer than strangers may be silent.
    done = strangers(site, "top", "--interval", "4s", "--count", "3", "--token-file", own)
    assert done.returncode == 0, done


def test_http_1_is_not_spoken(site):
    host, port = site.address.split(":")
    with socket.create_connection((host, int(port)), 10) as connection:
        connection.sendall(b"POST /loboscontrol.ControlPlane/ListUsers HTTP/1.1\r\nhost: x\r\n\r\n")
        assert b"HTTP/1" not in read_to_the_end(connection)
    site.ctl("info")


def test_malformed_calls_are_errors_and_end_nothing(site):
    host, port = site.address.split(":")
    for call in [
        grpc_call("/loboscontrol.ControlPlane/AddUser", b"\xff\xff\xff\xff"),
        grpc_call("/loboscontrol.ControlPlane/AddUser", b"\x0a\x04\xff\xfe\xfd\xfc"),
        grpc_call("/loboscontrol.ControlPlane/NoSuchMethod"),
        grpc_call("/no.such.Service/Method"),
        grpc_call("/"),
        grpc_call("/loboscontrol.ControlPlane/AddUser", b"\x0a" + b"\xff\xff\xff\x7f"),
        os.urandom(4096),
    ]:
        with socket.create_connection((host, int(port)), 10) as connection:
            connection.sendall(call)
            connection.settimeout(0.3)
            try:
                while connection.recv(65536):
                    pass
            except OSError:
                pass
    assert site.json("info")["auth"] is True


def test_a_configured_port_that_is_taken_is_an_error_and_the_usual_one_a_warning(start, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = "127.0.0.1:%d" % taken.getsockname()[1]
        with pytest.raises(AssertionError, match=f"cannot listen on {address}"):
            Controlled(start, tmp_path, address)
    servers = [start("serve", tmp_path / "data2", "--listen", "127.0.0.1:0") for _ in range(2)]
    without = [server for server in servers if "\ncontrol: " not in server.printed()]
    assert without, "both listen at 127.0.0.1:50051"
    for server in without:
        assert "127.0.0.1:50051 is in use" in server.log.read_text()
        server.client().list_objects_v2(Bucket="data2")


def test_an_address_that_others_reach_needs_a_token_and_tls(start, tmp_path):
    with pytest.raises(AssertionError, match="token_file"):
        Controlled(start, tmp_path, "0.0.0.0:0")


def test_buckets_are_made_and_removed(site):
    assert site.json("bucket", "create", "fresh")["owner"] == "root"
    site.server.client().put_object(Bucket="fresh", Key="a", Body=b"1")
    assert "not empty" in site_error(site, "bucket", "rm", "fresh")
    site.server.client().delete_object(Bucket="fresh", Key="a")
    site.ctl("bucket", "rm", "fresh")
    assert [bucket["name"] for bucket in site.json("bucket", "list")] == ["data"]
    assert "does not exist" in site_error(site, "bucket", "info", "fresh")
    assert "name" in site_error(site, "bucket", "create", "No_Good")
    assert "exists" in site_error(site, "bucket", "create", "data")


def test_the_commands_work_at_a_terminal(site):
    site.add("ann")
    users = in_terminal(site, "user", "list")
    assert re.search(r"^NAME\s+ENABLED\s+POLICY\s+SOURCE\s+KEYS", users) and "readwrite" in users
    assert "ann" in in_terminal(site, "user", "show", "ann")
    info = in_terminal(site, "info")
    assert "us-east-1" in info and re.search(r"data\s+\S+/data\s+[\d.]+ .iB", info)
    with traffic(site):
        assert "GetObject" in in_terminal(site, "top", "--interval", "500ms", "--count", "1")
        traced = in_terminal(site, "trace", "--count", "3", "--status", "2", "--operation", "GetObject")
        assert traced.count("data/k") == 3


def test_a_trace_is_filtered_and_json_is_one_line_an_event(site):
    with traffic(site):
        lines = site.ctl("trace", "--count", "5", "--bucket", "data", "--json").splitlines()
    events = [json.loads(line) for line in lines]
    assert len(events) == 5
    for event in events:
        assert (event["bucket"], event["key"], event["status"]) == ("data", "k", 200)
        assert event["operation"] == "GetObject" and event["user"] == "root"
        assert event["reply_bytes"] == 1000 and event["latency_seconds"] > 0
    assert "status" in site_error(site, "trace", "--status", "7")


def test_the_log_level_changes_while_it_runs(site):
    site.server.client().list_objects_v2(Bucket="data")
    assert "DEBUG" not in site.server.log.read_text()
    assert site.json("config", "log-level", "lobos=debug")["before"] == "info"
    site.server.client().list_objects_v2(Bucket="data")
    assert "DEBUG" in site.server.log.read_text()
    assert "no level" in site_error(site, "config", "log-level", "noisy")
    assert site.json("info")["log_level"] == "lobos=debug"
    assert site.json("config", "reload")["read_again"] == ["the users"]


def test_a_drained_server_ends_in_order(site):
    site.ctl("drain")
    assert site.server.process.wait(30) == 0
    assert "no server answers" in site_error(site, "info", status=3)


def test_manual_pages_are_written_for_every_command(tmp_path):
    run([BINARY, "ctl", "man", tmp_path / "man"], clean_environment(tmp_path))
    pages = {page.name: page.read_text() for page in (tmp_path / "man").iterdir()}
    assert all(page.startswith(".ie") or ".TH" in page for page in pages.values())
    for command in ["", "-serve", "-ctl", "-ctl-user-add", "-ctl-bucket-set", "-ctl-check"]:
        assert f"lobos{command}.1" in pages
    assert "QuotaExceeded" in pages["lobos-ctl-bucket-set.1"] or "quota" in pages["lobos-ctl-bucket-set.1"]
    # What `--help` names has a page.
    helped = run([BINARY, "ctl", "--help"], clean_environment(tmp_path))
    commands = re.findall(r"^  ([a-z-]+)  ", helped.split("Commands:")[1].split("Options:")[0], re.M)
    assert len(commands) > 8
    assert {f"lobos-ctl-{command}.1" for command in commands if command != "help"} <= pages.keys()


def test_completions_need_no_server(tmp_path):
    for shell, word in [("bash", "_lobos"), ("zsh", "#compdef"), ("fish", "complete")]:
        done = run([BINARY, "ctl", "completions", shell], clean_environment(tmp_path))
        assert word in done


def test_each_request_is_a_line_of_the_access_log(start, tmp_path):
    logs = tmp_path / "logs"
    logs.mkdir()
    for form in ("json", "common"):
        directory = tmp_path / form
        directory.mkdir()
        site = Controlled(start, directory, logging=f"""
            access_log = "{logs}/{form}"
            access_format = "{form}"
        """)
        ann, s3 = site.add("ann")
        s3.put_object(Bucket="data", Key='a "b"\n', Body=b"12345")
        s3.get_object(Bucket="data", Key='a "b"\n')["Body"].read()
        assert refused(s3.head_object, Bucket="data", Key="nothing") == "404"
        # A line is written beside the request, soon after its answer.
        eventually_works(lambda: len((logs / form).read_text().splitlines()) == 3)
        (logs / form).rename(logs / f"{form}.1")
        s3.list_objects_v2(Bucket="data")
        site.server.stop()
    events = [json.loads(line) for line in (logs / "json.1").read_text().splitlines()]
    told = [(e["operation"], e["status"], e["bucket"], e["user"], e["peer"]) for e in events]
    assert told == [("PutObject", 200, "data", "ann", "127.0.0.1"),
                    ("GetObject", 200, "data", "ann", "127.0.0.1"),
                    ("HeadObject", 404, "data", "ann", "127.0.0.1")]
    assert events[0]["request_bytes"] >= 5 and events[1]["reply_bytes"] == 5
    assert len({event["request_id"] for event in events}) == 3
    after = [json.loads(line) for line in (logs / "json").read_text().splitlines()]
    assert [event["operation"] for event in after] == ["ListObjectsV2"]
    lines = (logs / "common.1").read_text().splitlines()
    common = re.compile(r'127\.0\.0\.1 - ann \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d \+0000\] '
                        r'"(GET|PUT|HEAD) /data/\S+ HTTP" (200|404) (\d+|-) "-" "[^"]+"')
    assert len(lines) == 3 and all(common.fullmatch(line) for line in lines), lines


def test_each_change_is_a_line_of_the_audit_log(start, tmp_path):
    site = Controlled(start, tmp_path, logging=f'audit_log = "{tmp_path}/audit"')
    secret = site.json("user", "add", "ann")["secret_key"]
    site_error(site, "user", "add", "ann")
    site.ctl("user", "list")
    lines = (tmp_path / "audit").read_text()
    events = [json.loads(line) for line in lines.splitlines()]
    assert [(e["method"], e["about"], e["code"]) for e in events] == [
        ("AddUser", "ann", "Ok"), ("AddUser", "ann", "AlreadyExists")]
    assert all(event["caller"] == f"uid {os.getuid()}" for event in events)
    assert secret not in lines


@needs_root
def test_an_address_that_others_reach_speaks_tls_and_wants_the_token(start, tmp_path, strangers):
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed, so there is no certificate")
    run([openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "2", "-subj", "/CN=lobos", "-addext", "subjectAltName=IP:127.0.0.1",
         "-addext", "basicConstraints=critical,CA:FALSE",
         "-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"], clean_environment(tmp_path))
    token = tmp_path / "token"
    token.write_text("an-operators-long-token\n")
    token.chmod(0o600)
    site = Controlled(start, tmp_path, "0.0.0.0:0", more=f'token_file = "{token}"', auth=f"""
        [tls]
        cert = "{tmp_path}/cert.pem"
        key = "{tmp_path}/key.pem"
    """)
    site.address = site.address.replace("0.0.0.0", "127.0.0.1")
    secure = ["--ca", tmp_path / "cert.pem"]
    own = shutil.copy(tmp_path / "cert.pem", strangers.folder)
    assert "needs the token" in strangers(site, "info", "--ca", own).stderr
    assert site.json("info", *secure, "--token-file", token)["region"] == "us-east-1"
    site_error(site, "info", "--token-file", token, status=3)
    again = site.json("config", "reload", *secure, "--token-file", token)["read_again"]
    assert again == ["the certificates", "the token", "the users"]

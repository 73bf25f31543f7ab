"""Versions: at each change of the file system a kill or a loss of power, and kills at random.

A `History` asks for one change at a time. After a crash each key's versions are those that were
acknowledged, or those with the change that was under way, whole; each version has its bytes.
"""

import random
import re
import threading
import time
from urllib.parse import unquote

import pytest

from launcher import Launcher, build
from model import bytes_of, etag_of
from server import Lost
from volume import KINDS

KEYS = ["k", "deep/er/k", "deep", "a//b", "long/" + "l" * 300]
KILLS = 60
CYCLES = 6


class History:
    """`keys`: key -> versions, newest first, each (id, seed, size) or (id, None, None), a marker.

    The id of a version whose acknowledgement was lost is None.
    """

    def __init__(self, seed, keys=KEYS):
        self.random = random.Random(seed)
        self.keys = {key: [] for key in keys}
        self.status = None
        self.under_way = None
        self.serial, self.acked, self.checked = 0, 0, 0

    def configure(self, client, status):
        body = f"<VersioningConfiguration><Status>{status}</Status></VersioningConfiguration>"
        answer = client.ask("PUT", "", "versioning", body=body.encode())
        assert answer.status == 200, answer
        self.status = status

    def put(self, client, key, size):
        self.serial += 1
        seed = self.serial
        self.change(key, (None, seed, size), lambda: client.put(key, bytes_of(seed, size)), 200)

    def delete(self, client, key):
        if self.status is None:
            self.under_way = (key, [])
            answer = client.delete(key)
            assert answer.status == 204, answer
            self.keys[key], self.under_way = [], None
            return
        self.change(key, (None, None, None), lambda: client.delete(key), 204)

    def change(self, key, new, ask, status):
        old = self.keys[key]
        kept = [] if self.status is None else old
        if self.status == "Suspended":
            kept = [version for version in old if version[0] != "null"]
        if self.status != "Enabled":
            new = ("null", *new[1:])
        self.under_way = (key, [new, *kept])
        answer = ask()
        assert answer.status == status, answer
        if self.status == "Enabled":
            new = (answer.headers["x-amz-version-id"], *new[1:])
        self.keys[key], self.under_way = [new, *kept], None
        self.acked += 1

    def delete_version(self, client, key, at):
        versions = self.keys[key]
        if not versions:
            return
        at %= len(versions)
        left = versions[:at] + versions[at + 1:]
        self.under_way = (key, left)
        answer = client.ask("DELETE", key, f"versionId={versions[at][0]}")
        assert answer.status == 204, answer
        self.keys[key], self.under_way = left, None
        self.acked += 1

    def step(self, client):
        key, pick = self.random.choice(list(self.keys)), self.random.random()
        if pick < 0.5:
            self.put(client, key, self.random.choice([0, 1, 5000, 70_000, 300_000]))
        elif pick < 0.7:
            self.delete(client, key)
        elif pick < 0.97:
            self.delete_version(client, key, self.random.randrange(8))
        else:
            self.configure(client, self.random.choice(["Enabled", "Suspended"]))

    def verify(self, client):
        """What is there becomes what was acknowledged."""
        page = client.ask("GET", "", "versions&encoding-type=url")
        assert page.status == 200 and page.field("IsTruncated") == "false", page
        found = {key: [] for key in self.keys}
        pattern = (rb"<(Version|DeleteMarker)><Key>([^<]*)</Key><VersionId>([^<]*)</VersionId>"
                   rb"<IsLatest>(true|false)</IsLatest>.*?(?:<ETag>([^<]*)</ETag>|</DeleteMarker>)")
        for kind, key, version, latest, etag in re.findall(pattern, page.body, re.S):
            line = (version.decode(), latest == b"true",
                    etag.decode().replace("&quot;", '"') if kind == b"Version" else None)
            found[unquote(key.replace(b"+", b" ").decode())].append(line)
        for key, lines in found.items():
            states = [self.keys[key]]
            if self.under_way and self.under_way[0] == key:
                states.append(self.under_way[1])
            fitting = [state for state in states if fits(state, lines)]
            assert fitting, f"{key}: {lines}\nis none of {states}"
            self.keys[key] = [(line[0], *version[1:])
                              for line, version in zip(lines, fitting[0], strict=True)]
            self.read(client, key)
        self.under_way = None

    def read(self, client, key):
        versions = self.keys[key]
        for version, seed, size in versions:
            answer = client.ask("GET", key, f"versionId={version}")
            if seed is None:
                assert (answer.status, answer.code) == (405, "MethodNotAllowed"), answer
            else:
                assert (answer.status, answer.body) == (200, bytes_of(seed, size)), (key, version)
            self.checked += 1
        answer = client.get(key)
        if versions and versions[0][1] is not None:
            assert answer.body == bytes_of(*versions[0][1:]), (key, versions[0])
        else:
            assert answer.status == 404, answer

    def empty(self, client):
        for key, versions in self.keys.items():
            while versions := self.keys[key]:
                self.delete_version(client, key, len(versions) - 1)
        self.verify(client)


def fits(state, lines):
    """Whether a listing shows these versions, the first of them as the latest."""
    def same(version, line, is_first):
        number, seed, size = version
        etag = None if seed is None else etag_of(bytes_of(seed, size))
        return number in (None, line[0]) and line[1] == is_first and etag == line[2]

    return len(state) == len(lines) and all(
        same(version, line, at == 0) for at, (version, line) in enumerate(zip(state, lines)))


def script(history):
    """Requests that go through every way in which versions come and go."""
    plain, deep, above, odd = KEYS[:4]
    return [
        lambda c: history.put(c, plain, 100),
        lambda c: history.configure(c, "Enabled"),
        lambda c: history.put(c, plain, 5000),
        lambda c: history.put(c, plain, 300_000),
        lambda c: history.delete(c, plain),
        lambda c: history.put(c, odd, 10),
        lambda c: history.put(c, odd, 20),
        lambda c: history.delete(c, odd),
        lambda c: history.delete_version(c, odd, 0),
        lambda c: history.delete_version(c, odd, 0),
        lambda c: history.put(c, deep, 30),
        lambda c: history.put(c, above, 40),
        lambda c: history.put(c, deep, 50),
        lambda c: history.delete_version(c, plain, 0),
        lambda c: history.delete_version(c, plain, 1),
        lambda c: history.configure(c, "Suspended"),
        lambda c: history.put(c, plain, 60),
        lambda c: history.put(c, plain, 70),
        lambda c: history.delete(c, plain),
        lambda c: history.delete(c, deep),
        lambda c: history.delete(c, deep),
        lambda c: history.delete_version(c, deep, 0),
        lambda c: history.delete_version(c, deep, 0),
        lambda c: history.delete_version(c, deep, 0),
        lambda c: history.put(c, odd, 80),
        lambda c: history.delete_version(c, odd, 1),
    ]


def run(history, client):
    try:
        for request in script(history):
            request(client)
    except Lost:
        return False
    return True


@pytest.fixture
def serve(serve, tmp_path):
    """Servers of one installation: each believes what the one before says of the bucket."""
    return lambda directory, **more: serve(directory, state=tmp_path / "state", **more)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return build(tmp_path_factory.mktemp("faults"))


def points(seen, wanted):
    return range(1, seen + 1, max(1, seen // wanted))


def count(serve, program, directory):
    launcher = Launcher(program)
    server = serve(directory, launcher=launcher, threads=1)
    launcher.count("any")
    assert run(History("script"), server.client())
    seen = launcher.seen()
    server.kill()
    return seen


def stop_at(server, launcher, history, nth, crash):
    """Runs the script up to the `nth` change of the file system, which is not made."""
    launcher.hold("any", nth)
    done = threading.Thread(target=run, args=(history, server.client()))
    done.start()
    held = launcher.wait_until_held()
    crash()
    done.join()
    return held


def test_p1_p3_a_kill_at_each_change_leaves_every_version(serve, program, tmp_path, factor, report):
    first = tmp_path / "first"
    first.mkdir()
    seen = count(serve, program, first)
    for nth in (chosen := points(seen, 60 * factor)):
        directory = tmp_path / f"at-{nth}"
        directory.mkdir()
        history, launcher = History("script"), Launcher(program)
        server = serve(directory, launcher=launcher, threads=1)
        stop_at(server, launcher, history, nth, server.kill)
        again = serve(directory)
        client = again.client()
        history.verify(client)
        history.configure(client, "Enabled")
        history.put(client, KEYS[0], 10)
        history.verify(client)
        history.empty(client)
        # An empty directory may be left of a key that nobody has touched since.
        left = [path for path in directory.rglob("*") if path.is_file()
                and (".lobos" not in path.parts or "versions" in path.parts)]
        assert left == []
        again.kill()
    report(f"killed at {len(chosen)} of {seen} changes")


@pytest.mark.parametrize("kind", KINDS)
def test_p1_p3_a_loss_of_power_at_each_change_leaves_every_version(
        serve, program, volume, factor, report, kind):
    disk = volume(*KINDS[kind])
    first = disk.mountpoint / "first"
    first.mkdir()
    seen = count(serve, program, first)
    for nth in (chosen := points(seen, 15 * factor)):
        directory = disk.mountpoint / f"at-{nth}"
        directory.mkdir()
        history, launcher = History("script"), Launcher(program)
        server = serve(directory, launcher=launcher, threads=1)

        def crash(server=server):
            disk.lose_power()
            server.kill()

        stop_at(server, launcher, history, nth, crash)
        disk.unmount()
        disk.mount()
        if not directory.exists():
            # Nothing was acknowledged before it.
            assert history.acked == 0
            continue
        again = serve(directory)
        history.verify(again.client())
        again.kill()
    report(f"power lost at {len(chosen)} of {seen} changes")


def test_p1_p3_versions_survive_kill_9_at_random(serve, bucket, seed, factor, report):
    history, rolls = History(seed), random.Random(seed)
    for round in range(KILLS * factor):
        server = serve(bucket)
        client = server.client()
        history.verify(client)
        if round == 3:
            history.configure(client, "Enabled")
        deadline = time.monotonic() + rolls.uniform(0.02, 0.25)
        killer = threading.Timer(deadline - time.monotonic(), server.kill)
        killer.start()
        try:
            while True:
                history.step(client) if round >= 3 else history.put(client, "k", 100)
        except Lost:
            pass
        killer.join()
    server = serve(bucket)
    client = server.client()
    history.verify(client)
    history.empty(client)
    assert client.keys() == []
    server.stop()
    report(f"{KILLS * factor} kills, {history.acked} changes acknowledged, "
           f"{history.checked} versions read")

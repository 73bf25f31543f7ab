"""What a client was told, and therefore what must be there.

Each key belongs to one `Worker`, which asks for one change at a time. So at any moment a key has
one acknowledged state and at most one that was asked for without an answer; after a crash it is in
one of the two, whole. `State` is all that can be seen of an object: its bytes, which follow from a
seed, and its metadata, which follows from a tag.
"""

import hashlib
import random
import re
import threading
import time
from dataclasses import dataclass, field, replace
from functools import lru_cache

from server import BUCKET, Lost

MIB = 1 << 20
# The smallest part that may be followed by another.
PART_BYTES = 5 * MIB


@dataclass(frozen=True)
class State:
    """`etag` is None where the server chooses it."""

    seed: int
    size_bytes: int
    tag: str
    is_wide: bool = False
    etag: str | None = None

    @property
    def body(self):
        return bytes_of(self.seed, self.size_bytes)

    @property
    def headers(self):
        """Its metadata: small, or 10 KiB, which fits no attribute on ext4."""
        if not self.is_wide:
            return {"x-amz-meta-tag": self.tag}
        filling = (self.tag * 512)[:4096]
        return {"x-amz-meta-tag": self.tag, "x-amz-meta-filling": filling[:1800],
                "Content-Disposition": f"attachment; filename={filling}",
                "Cache-Control": f"max-age={len(filling)}, note={filling}"}

    def is_shown_by(self, answer):
        return (answer.status == 200 and answer.body == self.body
                and all(answer.headers.get(name) == value for name, value in self.headers.items())
                and (self.is_wide or answer.headers.get("Cache-Control") is None)
                and self.etag in (None, answer.headers.get("ETag")))


@lru_cache(64)
def bytes_of(seed, size_bytes):
    return random.Random(seed).randbytes(size_bytes)


def etag_of(*parts):
    sums = [hashlib.md5(part).digest() for part in parts]
    return f'"{sums[0].hex()}"'


def etag_of_parts(parts):
    return f'"{hashlib.md5(b"".join(hashlib.md5(part).digest() for part in parts)).hexdigest()}-{len(parts)}"'


@dataclass
class Register:
    """`durable`: what a loss of power may bring back in relaxed mode, besides `acked`."""

    acked: State | None = None
    asked: list = field(default_factory=list)
    durable: list = field(default_factory=list)


@dataclass
class Upload:
    id: str
    key: str
    tag: str
    parts: dict = field(default_factory=dict)   # number -> bytes, acknowledged
    completing: State | None = None


class Counts:
    """Of a whole test, over all its crashes."""

    def __init__(self):
        self.acked, self.lost, self.checked, self.undone = 0, 0, 0, 0
        self.lock = threading.Lock()

    def add(self, **more):
        with self.lock:
            for name, value in more.items():
                setattr(self, name, getattr(self, name) + value)


class Worker:
    """Changes its own keys, in the order it likes, and remembers what it was told."""

    def __init__(self, number, seed, counts, is_cut=None):
        self.random = random.Random(f"{seed}/{number}")
        self.counts = counts
        # From now on an answer promises nothing.
        self.is_cut = is_cut or threading.Event()
        top = f"w{number}"
        self.keys = [f"{top}-plain", f"{top}-other", f"{top}/deep/er/leaf", f"{top}/deep/twig",
                     f"{top}/file", f"{top}/file/below", f"{top}//empty segment",
                     f"{top}/.lobos/reserved", f"{top}/{'long' * 70}", f"{top}/großé +%"]
        self.registers = {key: Register() for key in self.keys}
        self.upload = None
        self.serial = 0

    # What can be asked.

    def step(self, client):
        pick = self.random.random()
        key = self.random.choice(self.keys)
        if pick < 0.40:
            self.put(client, key, self.some_size(), self.random.random() < 0.2)
        elif pick < 0.52:
            self.delete(client, key)
        elif pick < 0.62:
            self.copy(client, self.random.choice(self.keys), key)
        elif pick < 0.78:
            self.describe(client, key, self.random.random() < 0.3)
        else:
            self.step_upload(client, key)

    def some_size(self):
        return self.random.choice([0, 1, 511, 4096, 4097, 30_000, 70_000, 300_000, 1_300_000])

    def put(self, client, key, size_bytes, is_wide=False):
        state = self.new_state(size_bytes, is_wide)
        state = replace(state, etag=etag_of(state.body))
        self.change(key, state, lambda: client.put(key, state.body, state.headers))

    def delete(self, client, key):
        self.change(key, None, lambda: client.delete(key))

    def copy(self, client, source, key):
        state = self.registers[source].acked
        if state is None or source == key:
            return
        self.change(key, replace(state, etag=None), lambda: client.put(
            key, b"", {"x-amz-copy-source": quoted(source)}))

    def describe(self, client, key, is_wide=False):
        """A change of the metadata alone: a copy onto itself."""
        state = self.registers[key].acked
        if state is None:
            return
        state = replace(state, tag=self.new_tag(), is_wide=is_wide)
        self.change(key, state, lambda: client.put(key, b"", state.headers | {
            "x-amz-copy-source": quoted(key), "x-amz-metadata-directive": "REPLACE"}))

    def step_upload(self, client, key):
        upload = self.upload
        if upload is None:
            self.create_upload(client, key, self.random.random() < 0.3)
        elif 1 not in upload.parts or self.random.random() < 0.2:
            # Mostly one small part; now and then one that another may follow.
            large = self.random.random() < 0.15
            self.put_part(client, 1, PART_BYTES if large else self.some_size())
        elif len(upload.parts) == 1 and len(upload.parts[1]) >= PART_BYTES:
            self.put_part(client, 2, self.some_size())
        elif self.random.random() < 0.8:
            self.complete(client)
        else:
            self.abort(client)

    def create_upload(self, client, key, is_wide=False):
        state = self.new_state(0, is_wide)
        answer = self.counted(lambda: client.ask("POST", key, "uploads", state.headers))
        if answer.status == 200:
            self.upload = Upload(answer.field("UploadId"), key, state.tag)
            self.upload.is_wide = is_wide
            self.counts.add(acked=1)
        else:
            self.refused(answer)

    def put_part(self, client, number, size_bytes):
        upload, body = self.upload, bytes_of(self.new_state(0).seed, size_bytes)
        answer = self.counted(lambda: client.ask(
            "PUT", upload.key, f"partNumber={number}&uploadId={upload.id}", {}, body))
        if answer.status == 200:
            assert answer.headers["ETag"] == etag_of(body), answer
            upload.parts[number] = body
            self.counts.add(acked=1)
        else:
            self.refused(answer)

    def complete(self, client):
        upload = self.upload
        parts = [upload.parts[number] for number in sorted(upload.parts)]
        if not parts or len(parts) > 1 and len(parts[0]) < PART_BYTES:
            return self.abort(client)
        whole = b"".join(parts)
        state = Joined(seed=0, size_bytes=len(whole), tag=upload.tag, is_wide=upload.is_wide,
                       etag=etag_of_parts(parts), whole=whole)
        upload.completing = state
        self.change(upload.key, state, lambda: self.ask_to_complete(client, upload))
        if self.registers[upload.key].acked is state:
            self.upload = None

    def ask_to_complete(self, client, upload):
        rows = "".join(f"<Part><PartNumber>{n}</PartNumber><ETag>{etag_of(body)}</ETag></Part>"
                       for n, body in sorted(upload.parts.items()))
        document = f"<CompleteMultipartUpload>{rows}</CompleteMultipartUpload>".encode()
        answer = client.ask("POST", upload.key, f"uploadId={upload.id}", {}, document)
        if answer.status == 200 and b"<Error>" in answer.body:
            answer.status = 500
        return answer

    def abort(self, client):
        upload, self.upload = self.upload, None
        answer = self.counted(lambda: client.ask("DELETE", upload.key, f"uploadId={upload.id}"))
        if answer.status == 204:
            self.counts.add(acked=1)
        else:
            self.refused(answer)

    def change(self, key, state, ask):
        register = self.registers[key]
        register.asked.append(state)
        answer = self.counted(ask)
        if answer.status in (200, 204):
            register.durable.append(register.acked)
            register.acked = state
            register.asked.clear()
            self.counts.add(acked=1)
        elif answer.status >= 500:
            # It failed half way: the key has the old state or the new one.
            self.refused(answer)
        else:
            raise AssertionError(f"{key!r}: {answer}")

    def counted(self, ask):
        try:
            answer = ask()
            if self.is_cut.is_set():
                raise Lost("answered while the power went")
            return answer
        except Lost:
            self.counts.add(lost=1)
            raise

    def refused(self, answer):
        raise Refused(answer)

    def new_state(self, size_bytes, is_wide=False):
        return State(self.random.getrandbits(48), size_bytes, self.new_tag(), is_wide)

    def new_tag(self):
        self.serial += 1
        return f"tag{self.serial}-{self.random.getrandbits(32):08x}"

    # What must be there.

    def verify(self, client, lossy=False):
        """After a crash. `lossy`: power was lost in relaxed mode, so names may be older."""
        for key, register in self.registers.items():
            answer = client.get(key)
            allowed = [*register.asked, register.acked, *(register.durable if lossy else [])]
            if answer.status == 404 and answer.code == "NoSuchKey":
                seen = [state for state in allowed if state is None]
            else:
                seen = [state for state in allowed if state and state.is_shown_by(answer)]
            assert seen, (f"{key!r} is in a state that nobody was promised: {answer}\n"
                          f"{dict(answer.headers)}\nallowed: {allowed}")
            self.counts.add(checked=1, undone=int(bool(register.asked) and seen[0] is register.acked))
            register.acked = seen[0]
            register.asked.clear()
            register.durable.clear()
        self.verify_upload(client, lossy)

    def verify_upload(self, client, lossy):
        upload = self.upload
        if upload is None:
            return
        if upload.completing is not None:
            self.upload = None
            answer = self.ask_to_complete(client, upload)
            if answer.code == "NoSuchUpload" and lossy:
                return
            # Nobody has touched the key since, so repeating it must succeed.
            assert answer.status == 200, f"{upload.key!r}: {answer}"
            self.registers[upload.key].acked = upload.completing
            assert upload.completing.is_shown_by(client.get(upload.key)), upload.key
            return
        answer = client.ask("GET", upload.key, f"uploadId={upload.id}")
        if lossy and answer.status == 404:
            self.upload = None
            return
        assert answer.status == 200, f"an upload that was opened is gone: {answer}"
        pairs = re.findall(rb"<PartNumber>(\d+)</PartNumber>.*?<ETag>([^<]*)<", answer.body, re.S)
        found = {int(number): etag.decode().replace("&quot;", '"') for number, etag in pairs}
        for number, body in list(upload.parts.items()):
            self.counts.add(checked=1)
            if found.get(number) != etag_of(body):
                # A repeated part that was not answered may have replaced it.
                assert number in found, f"part {number} of {upload.key!r} is gone: {found}"
                del upload.parts[number]


@dataclass(frozen=True)
class Joined(State):
    """An object made of parts."""

    whole: bytes = field(default=b"", repr=False)

    @property
    def body(self):
        return self.whole


class Refused(Exception):
    """The server answered with an error of its own (5xx)."""


def quoted(key):
    from urllib.parse import quote
    return "/" + BUCKET + "/" + quote(key, safe="/-_.~")


class Workload:
    """Several workers at once, through as many crashes as the test likes."""

    def __init__(self, seed, workers=6):
        self.counts = Counts()
        self.is_cut = threading.Event()
        self.workers = [Worker(number, seed, self.counts, self.is_cut) for number in range(workers)]

    def run(self, servers, crash):
        """Lets all work, each on one of `servers`, until `crash()` has returned."""
        ending, faults = threading.Event(), []
        self.is_cut.clear()

        def work(worker):
            client = servers[self.workers.index(worker) % len(servers)].client()
            try:
                while not ending.is_set():
                    worker.step(client)
            except (Lost, Refused):
                pass
            except BaseException as fault:  # noqa: BLE001 - told to the test's own thread
                faults.append(fault)
            finally:
                client.close()

        threads = [threading.Thread(target=work, args=[worker]) for worker in self.workers]
        for thread in threads:
            thread.start()
        try:
            crash()
        finally:
            ending.set()
            for thread in threads:
                thread.join(REQUESTS_END_SECONDS)
        assert not any(thread.is_alive() for thread in threads), "a request hangs"
        if faults:
            raise faults[0]

    def verify(self, client, lossy=False):
        for worker in self.workers:
            worker.verify(client, lossy)
        expected = {key for worker in self.workers for key, register in worker.registers.items()
                    if register.acked is not None}
        listed = [key for key in client.keys() if not key.startswith(STEADY)]
        assert sorted(listed, key=str.encode) == listed and len(set(listed)) == len(listed)
        assert set(listed) == expected, (
            f"unknown: {set(listed) - expected}, missing: {expected - set(listed)}")
        self.verify_uploads(client)

    def verify_uploads(self, client):
        """No upload is open but those that a client opened; those it does not know are aborted."""
        known = {worker.upload.id for worker in self.workers if worker.upload}
        unknown = [pair for pair in client.uploads() if pair[1] not in known]
        for key, id in unknown:
            client.ask("DELETE", key, f"uploadId={id}")

    def empty(self, client):
        """Deletes all that is there."""
        for worker in self.workers:
            if worker.upload:
                worker.abort(client)
            for key in worker.keys:
                worker.delete(client, key)


def leftovers(directory, uploads=()):
    """Files in `.lobos/` that no object, no open upload and no running process accounts for.

    Only for an empty bucket that one server serves, after its first write.
    """
    home = directory / ".lobos"
    found = [path for path in home.rglob("*") if not path.is_dir()]
    alive = list((home / "tmp").iterdir())
    assert len(alive) == 1, f"scratch directories of processes that are gone: {alive}"
    kept = [home / "lock", home / "config", alive[0] / "lock"]
    return [str(path.relative_to(directory)) for path in found
            if path not in kept and not any(f"uploads/{id}/" in str(path) for id in uploads)]


def until(condition, seconds_max=10):
    """Waits for what happens in the background; gives what `condition` gave last."""
    deadline = time.monotonic() + seconds_max
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return value


# Keys that a test watches by itself.
STEADY = "w-steady"
# A server that is killed or answers: either way the threads end.
REQUESTS_END_SECONDS = 90

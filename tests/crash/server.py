"""A server that dies in the middle of its work, and a client that is not surprised by it."""

import ctypes
import http.client
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote, unquote

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "clients"))

from lobos import BINARY, START_SECONDS_MAX, clean_environment  # noqa: E402

BUCKET = "data"
STORE_SIZE = "256MiB"
REQUEST_SECONDS_MAX = 60


class Lost(Exception):
    """The server went away before it answered: what was asked may have happened or not."""


class Server:
    """`lobos serve DIRECTORY --no-auth`, whatever the directory's name the bucket is BUCKET. A
    `directory` that ends in `.img` is a blob store, one that ends in `.cfg` the configuration of one.

    `uid`: run as this user and group. `launcher`: a Launcher that starts the process under its eyes.
    `state`: the state directory; servers that share it believe each other's configuration of the
    bucket.
    """

    def __init__(self, directory, home, durability="strict", uid=None, launcher=None, threads=2,
                 state=None):
        self.directory, self.home, self.launcher = directory, home, launcher
        home.mkdir(parents=True, exist_ok=True)
        self.output, self.log = home / "stdout.txt", home / "stderr.txt"
        is_store = directory.suffix in (".img", ".cfg")
        place = {".img": ["--blob", f"{directory}:{STORE_SIZE}"], ".cfg": ["-c", directory]}.get(
            directory.suffix, ["--bucket", f"{BUCKET}={directory}"])
        arguments = [BINARY, "serve", *place, "--no-auth",
                     "--listen", "127.0.0.1:0", "--durability", durability,
                     "--threads", str(threads), "--state-dir", state or home / "state"]
        environment = clean_environment(home)
        if uid is not None:
            (home / "state").mkdir(exist_ok=True)
            os.chown(home / "state", uid, uid)
        self.output.write_bytes(b"")
        if launcher:
            self.pid = launcher.start(arguments, environment, self.output, self.log)
            self.process = launcher.process
        else:
            with self.output.open("wb") as output, self.log.open("ab") as log:
                self.process = subprocess.Popen(
                    [*map(str, arguments)], stdin=subprocess.DEVNULL, stdout=output, stderr=log,
                    env=environment, cwd="/", user=uid, group=uid,
                    extra_groups=None if uid is None else [], preexec_fn=die_with_parent)
            self.pid = self.process.pid
        # Threads that poll start slowly where others want their core.
        patience = 6 if directory.suffix == ".cfg" else 1
        self.port = self._wait_for_port(patience * START_SECONDS_MAX)
        if is_store:
            # Asking again for a bucket of one's own is answered as the first time.
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
            connection.request("PUT", f"/{BUCKET}")
            assert connection.getresponse().status == 200
            connection.close()

    def client(self):
        return Client(self.port)

    def kill(self):
        """SIGKILL: nothing in the process runs any more."""
        if self.process.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
        self.process.wait(10)
        self._check_log()

    def stop(self):
        if self.process.poll() is None:
            os.kill(self.pid, signal.SIGTERM)
        status = self.process.wait(40)
        self._check_log()
        assert status == 0, f"status {status}:\n{self.log.read_text(errors='replace')[-4000:]}"

    def _check_log(self):
        log = self.log.read_text(errors="replace")
        assert "panic" not in log, f"a panic in the server's log:\n{log[-8000:]}"

    def _wait_for_port(self, seconds_max):
        deadline = time.monotonic() + seconds_max
        while time.monotonic() < deadline:
            found = re.search(r"127\.0\.0\.1:(\d+)", self.output.read_text())
            if found and found[1] != "0":
                return int(found[1])
            if self.process.poll() is not None:
                break
            time.sleep(0.005)
        raise AssertionError("lobos did not start:\n" + self.log.read_text(errors="replace")[-4000:])


def die_with_parent():
    """A test that is interrupted leaves no server behind."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def code(self):
        found = re.search(rb"<Code>([^<]*)</Code>", self.body)
        return found[1].decode() if found else None

    def field(self, name):
        found = re.search(rf"<{name}>([^<]*)</{name}>".encode(), self.body)
        return found[1].decode().replace("&quot;", '"') if found else None

    def __repr__(self):
        return f"{self.status} {self.code or ''} {self.body[:300]!r}"


class Client:
    """One connection, made anew where the server closed it."""

    def __init__(self, port):
        self.port = port
        self.connection = None

    def ask(self, method, key="", query="", headers=None, body=b""):
        """Errors: Lost. A request is never sent twice."""
        target = f"/{BUCKET}/{quote(key, safe='/-_.~')}" + (f"?{query}" if query else "")
        try:
            if self.connection is None:
                self.connection = http.client.HTTPConnection(
                    "127.0.0.1", self.port, timeout=REQUEST_SECONDS_MAX)
            self.connection.request(method, target, body=body or None, headers={
                "Host": f"127.0.0.1:{self.port}", **({"Content-Length": "0"} if not body else {}),
                **(headers or {})})
            reply = self.connection.getresponse()
            answer = Answer(reply.status, reply.headers, reply.read())
            if reply.will_close:
                self.close()
            return answer
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Lost(f"{method} {target}: {error!r}") from error

    def close(self):
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def put(self, key, body=b"", headers=None):
        return self.ask("PUT", key, "", headers, body)

    def get(self, key):
        return self.ask("GET", key)

    def delete(self, key):
        return self.ask("DELETE", key)

    def keys(self, prefix=""):
        """All keys, through as many pages as it takes."""
        found, token = [], ""
        while True:
            page = self.ask("GET", "", f"list-type=2&encoding-type=url&prefix={quote(prefix, safe='')}"
                            + (f"&continuation-token={quote(token, safe='')}" if token else ""))
            assert page.status == 200, page
            found += [unquote(key.replace(b"+", b" ").decode())
                      for key in re.findall(rb"<Key>([^<]*)</Key>", page.body)]
            token = page.field("NextContinuationToken")
            if not token:
                return found

    def uploads(self):
        """(key, id) of all open uploads."""
        page = self.ask("GET", "", "uploads&encoding-type=url")
        assert page.status == 200, page
        pairs = re.findall(rb"<Upload>.*?<Key>([^<]*)</Key>.*?<UploadId>([^<]*)<", page.body, re.S)
        return [(unquote(key.replace(b"+", b" ").decode()), id.decode()) for key, id in pairs]

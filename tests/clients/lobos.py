"""The real server for one test: started on a port of its own choice, stopped by its pid."""

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import boto3
from botocore.config import Config

REPOSITORY = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("LOBOS_BINARY", REPOSITORY / "target" / "release" / "lobos"))
ACCESS_KEY = "clienttests"
SECRET_KEY = "clienttests/secret+key"
START_SECONDS_MAX = 10
STOP_SECONDS_MAX = 20
# One session reads the service models once for all tests.
SESSION = boto3.session.Session()


class Lobos:
    """A running `lobos`; `port` is None where it listens on a Unix socket only."""

    def __init__(self, arguments, home, environment=None, keys=True):
        """Starts `lobos ARGUMENTS`, its files under `home`, and waits until it answers.

        `keys`: the root user has ACCESS_KEY and SECRET_KEY; else Lobos makes its own pair.
        """
        home.mkdir(parents=True, exist_ok=True)
        self.home = home
        self.access_key, self.secret_key = ACCESS_KEY, SECRET_KEY
        self.output, self.log = home / "stdout.txt", home / "stderr.txt"
        settings = clean_environment(home)
        if keys:
            settings |= {"LOBOS_ROOT_USER": ACCESS_KEY, "LOBOS_ROOT_PASSWORD": SECRET_KEY}
        settings |= environment or {}
        with self.output.open("wb") as output, self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [BINARY, *map(str, arguments)],
                stdin=subprocess.DEVNULL, stdout=output, stderr=log, env=settings, cwd=home,
            )
        self.port = None
        try:
            self._wait_until_ready(arguments)
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.port}"

    def printed(self):
        return self.output.read_text()

    def client(self, endpoint=None, region="us-east-1", access_key=None, secret_key=None,
               verify=None, **config):
        """A boto3 client that never retries, so that the first answer counts."""
        return SESSION.client(
            "s3", endpoint_url=endpoint or self.endpoint, region_name=region,
            aws_access_key_id=access_key or self.access_key,
            aws_secret_access_key=secret_key or self.secret_key,
            verify=verify,
            config=Config(retries={"total_max_attempts": 1}, **config),
        )

    def stop(self):
        """SIGTERM; the exit must be clean and the log without a panic. Repeating it is harmless."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            status = self.process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"lobos did not stop in {STOP_SECONDS_MAX} s after SIGTERM")
        log = self.log.read_text(errors="replace")
        assert "panic" not in log, f"a panic in the server's log:\n{log}"
        assert status == 0, f"lobos ended with status {status}:\n{log}"

    def _wait_until_ready(self, arguments):
        unix = [a.removeprefix("unix:") for a in map(str, arguments) if a.startswith("unix:")]
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            if unix and answers(socket.AF_UNIX, unix[0]):
                return
            if not unix and self._tcp_ready():
                return
            time.sleep(0.01)
        raise AssertionError(
            f"lobos {' '.join(map(str, arguments))} did not start (status {self.process.poll()}):\n"
            f"{self.printed()}\n{self.log.read_text(errors='replace')}"
        )

    def _tcp_ready(self):
        """The chosen port stands in the lines that Lobos prints."""
        ports = re.findall(r"(?:127\.0\.0\.1|localhost|0\.0\.0\.0|\[::1?\]):(\d+)", self.printed())
        chosen = [int(port) for port in ports if port != "0"]
        if not chosen:
            return False
        self.port = chosen[0]
        return answers(socket.AF_INET, ("127.0.0.1", self.port))


def answers(family, address):
    with socket.socket(family) as probe:
        probe.settimeout(1)
        try:
            probe.connect(address)
        except OSError:
            return False
    return True


def clean_environment(home):
    """An environment without the settings of whoever runs the tests."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LANG") if name in os.environ}
    return kept | {
        "HOME": str(home),
        "XDG_STATE_HOME": str(home / "state"),
        "XDG_CONFIG_HOME": str(home / "config"),
        "NO_PROXY": "*",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def client_environment(server, home, **more):
    """What a user of the AWS tools would export for this server."""
    return clean_environment(home) | {
        "AWS_ENDPOINT_URL": server.endpoint,
        "AWS_ACCESS_KEY_ID": server.access_key,
        "AWS_SECRET_ACCESS_KEY": server.secret_key,
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(home / "no-config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(home / "no-credentials"),
        "AWS_PAGER": "",
        "AWS_MAX_ATTEMPTS": "1",
    } | more


def run(command, environment, status=0, timeout=120, stderr=subprocess.PIPE, **more):
    """Runs a command, checks its exit status and returns what it printed (stdout)."""
    done = subprocess.run(
        list(map(str, command)), env=environment, text=True, timeout=timeout,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, **more,
    )
    assert done.returncode == status, (
        f"{' '.join(map(str, command))}: status {done.returncode}, not {status}\n"
        f"stdout:\n{done.stdout[-4000:]}\nstderr:\n{(done.stderr or '')[-4000:]}"
    )
    return done.stdout


# The aws command of the pinned awscli, wherever it was installed to.
AWS = [sys.executable, "-m", "awscli"]

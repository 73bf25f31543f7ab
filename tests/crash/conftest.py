"""Fixtures: servers and file systems that end with their test, and the numbers of the run."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from server import BINARY, Server  # noqa: E402
from volume import Volume  # noqa: E402

REPORT = []
# How much longer than `make test` runs it: LOBOS_CRASH_FACTOR=20 takes about half an hour.
FACTOR = int(os.environ.get("LOBOS_CRASH_FACTOR", "1"))


def pytest_sessionstart():
    if not BINARY.is_file():
        pytest.exit(f"{BINARY} is missing: build it with `cargo build --release`", returncode=2)


def pytest_terminal_summary(terminalreporter):
    for line in REPORT:
        terminalreporter.write_line(line)


@pytest.fixture
def report(request):
    """`report(text)`: a line of numbers for the end of the run."""
    return lambda text: REPORT.append(f"{request.node.name}: {text}")


@pytest.fixture
def factor():
    return FACTOR


@pytest.fixture
def seed(request):
    """Printed when a test fails; LOBOS_CRASH_SEED repeats it as far as timing allows."""
    seed = os.environ.get("LOBOS_CRASH_SEED") or os.urandom(4).hex()
    print(f"LOBOS_CRASH_SEED={seed}")
    return seed


@pytest.fixture
def serve(tmp_path, volume):
    """`serve(directory, ...)`: a server that is killed after the test, if it still runs."""
    running = []

    def serve(directory, **more):
        running.append(Server(directory, tmp_path / f"server-{len(running)}", **more))
        return running[-1]

    yield serve
    for server in running:
        if server.process.poll() is None:
            server.kill()


@pytest.fixture
def bucket(tmp_path):
    directory = tmp_path / "bucket"
    directory.mkdir()
    return directory


@pytest.fixture
def volume(tmp_path):
    """`volume(make, size_mib)`: a mounted Volume."""
    made = []

    def make(command, size_mib, options="loop"):
        made.append(Volume(tmp_path / f"volume-{len(made)}", command, size_mib, options))
        return made[-1]

    yield make
    for one in made:
        one.remove()

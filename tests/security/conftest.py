"""Security tests talk to the server byte by byte; servers and signatures come from the client tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "clients"))

import pytest

from conftest_clients import image, pytest_sessionstart, rooted, site, start  # noqa: F401
from raw import Victim

TIMEOUTS = {"head": 2, "body": 2, "reply": 2, "idle": 2}


@pytest.fixture
def victim(start, tmp_path):
    """A server without authentication, so that whatever gets through has an effect."""
    return Victim(start, tmp_path)


@pytest.fixture
def hasty(start, tmp_path):
    """The same with time-outs of two seconds and 24 connections at most."""
    timeouts = "\n".join(f'{name} = "{seconds}s"' for name, seconds in TIMEOUTS.items())
    config = tmp_path / "lobos.cfg"
    config.write_text(f"[server.limits]\nconnections = 24\n[server.timeouts]\n{timeouts}\n")
    return Victim(start, tmp_path, "-c", config)

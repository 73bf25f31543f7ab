"""A server whose system calls fail, or stop it, at a point of the test's choice (faults.c)."""

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("faults.c")


def build(home):
    """The compiled launcher; skips the test where it cannot be had or does not work."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    program = home / "faults"
    done = subprocess.run([compiler, "-O1", "-o", program, SOURCE], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"the compiler lacks what faults.c needs: {done.stderr[:200]}")
    probe = subprocess.run([program, os.devnull, home / "probe", "/bin/true"], capture_output=True,
                           text=True, stdin=subprocess.PIPE)
    if "pid" not in probe.stdout:
        pytest.skip(f"no seccomp notifications here: {(home / 'probe').read_text()[:200]}")
    return program


class Launcher:
    """Starts one server. Give it to Server(launcher=...)."""

    def __init__(self, program):
        self.program = program

    def start(self, arguments, environment, output, log):
        self.process = subprocess.Popen(
            [str(word) for word in [self.program, output, log, *arguments]], env=environment, cwd="/",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        return int(self._read().split()[1])

    def fail(self, kind, nth, error):
        """The `nth` call of `kind` from now on fails with the errno of that name."""
        self._tell(f"arm {kind} {nth} {getattr(errno, error)}")

    def hold(self, kind, nth):
        """The `nth` call of `kind` from now on is not made; see `wait_until_held`."""
        self._tell(f"arm {kind} {nth} 0")

    def count(self, kind):
        self._tell(f"arm {kind} 0 0")

    def seen(self):
        self.process.stdin.write("seen\n")
        return int(self._read().split()[1])

    def wait_until_held(self):
        """False: the server ended first."""
        return self.process.stdout.readline().startswith("held")

    def _tell(self, line):
        self.process.stdin.write(line + "\n")
        assert self._read() == "armed\n"

    def _read(self):
        line = self.process.stdout.readline()
        assert line, "the launcher ended"
        return line

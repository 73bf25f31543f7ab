"""kill -9 in the middle of editing users."""

import json
import random
import signal
import subprocess
import threading

from lobos import BINARY, clean_environment

KILLS = 100


class Controlled:
    """A server with a control plane on a Unix socket."""

    def __init__(self, home):
        self.home, self.socket = home, home / "control.sock"
        config = home / "lobos.cfg"
        config.write_text(f"""
            [server]
            listen = "unix:{home}/s3.sock"
            threads = 1
            state_dir = "{home}/state"
            [filesystem.buckets]
            data = "{home}/data"
            [metrics]
            enabled = false
            [control]
            listen = "unix:{self.socket}"
        """)
        self.log = home / "stderr.txt"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [BINARY, "-c", config], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
                env=clean_environment(home), text=True)
        for line in self.process.stdout:
            if line.startswith("Listening on"):
                return
        raise AssertionError(f"lobos did not start:\n{self.log.read_text()}")

    def ctl(self, *arguments):
        """The answer, or None if the server went away or refused."""
        done = subprocess.run(
            [BINARY, "ctl", "--address", f"unix:{self.socket}", "--json", *arguments],
            env=clean_environment(self.home), capture_output=True, text=True, timeout=60)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()


def test_users_and_keys_that_were_acknowledged_survive_kill_9(tmp_path, seed, factor, report):
    rolls = random.Random(seed)
    known, unsure, acknowledged = {}, set(), 0
    for _ in range(KILLS * factor):
        server = Controlled(tmp_path)
        verify(server, known, unsure)
        unsure.clear()
        killer = threading.Timer(rolls.uniform(0.005, 0.25), server.kill)
        killer.start()
        while server.process.returncode is None:
            name = f"user-{rolls.randrange(8)}"
            acknowledged += edit(server, rolls, name, known, unsure)
            if unsure:
                break
        killer.join()
    server = Controlled(tmp_path)
    verify(server, known, unsure)
    assert server.ctl("user", "add", "last")
    server.kill()
    drafts = [path.name for path in (tmp_path / "state").iterdir() if "users.json-" in path.name]
    report(f"{KILLS * factor} kills, {acknowledged} changes of users acknowledged, "
           f"{len(known)} users at the end")
    assert not drafts
    assert acknowledged > KILLS * factor / 4


def edit(server, rolls, name, known, unsure):
    """One change; 1 if it was acknowledged. `known`: name -> (enabled, keys)."""
    if name not in known:
        made = server.ctl("user", "add", name)
        if made:
            known[name] = (True, {made["access_key"]})
    else:
        enabled, keys = known[name]
        what = rolls.choice(["rm", "disable", "enable", "rotate"])
        made = server.ctl("user", what, name)
        if made and what == "rm":
            del known[name]
        elif made and what == "rotate":
            known[name] = (enabled, {made["access_key"]})
        elif made:
            known[name] = (what == "enable", keys)
    if not made:
        unsure.add(name)
    return bool(made)


def verify(server, known, unsure):
    """What was acknowledged is there; of what was cut off, whatever is there is known from now."""
    listed = server.ctl("user", "list")
    found = {user["name"]: (user["enabled"], {key["key"] for key in user["keys"]})
             for user in listed if user["source"] == "stored"}
    sure = lambda users: {name: state for name, state in users.items() if name not in unsure}  # noqa: E731
    assert sure(found) == sure(known)
    known.clear()
    known.update(found)

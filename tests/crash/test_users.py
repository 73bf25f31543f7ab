"""kill -9 in the middle of editing users and the settings of buckets."""

import json
import random
import signal
import subprocess
import threading
import time

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
            [blob]
            path = "{home}/store.img"
            size = "32 MiB"
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


def test_users_keys_and_settings_that_were_acknowledged_survive_kill_9(
        tmp_path, seed, factor, report):
    rolls = random.Random(seed)
    known, unsure, acknowledged = {}, set(), {"users": 0, "buckets": 0}
    known.update({bucket: DEFAULTS for bucket in BUCKETS})
    for _ in range(KILLS * factor):
        server = Controlled(tmp_path)
        began = time.monotonic()
        verify(server, known, unsure)
        # Counted in commands, so that a slow machine gets as many of them done.
        command_seconds = (time.monotonic() - began) / 2
        unsure.clear()
        killer = threading.Timer(rolls.uniform(0.05, 4) * command_seconds, server.kill)
        killer.start()
        while server.process.returncode is None:
            what = rolls.choice(["users", "buckets"])
            if what == "users":
                done = edit(server, rolls, f"user-{rolls.randrange(8)}", known, unsure)
            else:
                done = settle(server, rolls, rolls.choice(BUCKETS), known, unsure)
            acknowledged[what] += done
            if unsure:
                break
        killer.join()
    server = Controlled(tmp_path)
    verify(server, known, unsure)
    assert server.ctl("user", "add", "last")
    server.kill()
    drafts = [path.name for path in (tmp_path / "state").iterdir() if "users.json-" in path.name]
    report(f"{KILLS * factor} kills, {acknowledged['users']} changes of users and "
           f"{acknowledged['buckets']} of settings acknowledged, "
           f"{len(known) - len(BUCKETS)} users at the end")
    assert not drafts
    assert min(acknowledged.values()) > KILLS * factor / 10


def settle(server, rolls, bucket, known, unsure):
    """All settings of a bucket in one change; 1 if it was acknowledged."""
    durability, etag = rolls.choice(["strict", "relaxed"]), rolls.choice(["md5", "fast"])
    quota = rolls.randrange(1, 1 << 40)
    made = server.ctl("bucket", "set", bucket, "--durability", durability, "--etag", etag,
                      "--quota", str(quota))
    if made:
        known[bucket] = (durability, etag, quota)
    else:
        unsure.add(bucket)
        unsure.add((bucket, known[bucket], (durability, etag, quota)))
    return bool(made)


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
    for told in server.ctl("bucket", "list"):
        found[told["name"]] = (told["durability"], told["etag"], told["quota_bytes"])
    sure = lambda things: {name: state for name, state in things.items() if name not in unsure}  # noqa: E731
    assert sure(found) == sure(known)
    # A change of several settings is made as a whole or not at all.
    for bucket, before, after in (cut for cut in unsure if isinstance(cut, tuple)):
        assert found[bucket] in (before, after)
    known.clear()
    known.update(found)


# One in a directory, one in the blob store.
BUCKETS = ["data", "lobos"]
DEFAULTS = ("strict", "md5", None)

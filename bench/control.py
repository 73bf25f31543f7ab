#!/usr/bin/env python3
"""How fast GETs are while the control plane is left alone, flooded, and stopped.

    LOBOS_BINARY=target/release/lobos bench/control.py [SECONDS]

Needs wrk, and the Python of the client tests. Prints requests a second and the 99th percentile of
GETs of 4 KiB over 16 connections, in three rounds of three states: nobody asks the control plane
anything; 1,000 watchers of the trace who do not read; its thread stopped as a debugger stops it.
"""

import contextlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "clients"))

from generic import Generic  # noqa: E402
from lobos import Lobos  # noqa: E402
from test_control_stall import SlowWatcher, stopped  # noqa: E402

WATCHERS, ROUNDS = 1000, 3


def main(seconds):
    with tempfile.TemporaryDirectory() as home:
        home = Path(home)
        (home / "data").mkdir()
        (home / "data" / "k").write_bytes(b"x" * 4096)
        config = home / "lobos.cfg"
        config.write_text(f"""
            [server]
            listen = "127.0.0.1:0"
            auth = false
            [filesystem.buckets]
            data = "{home}/data"
            [control]
            listen = "127.0.0.1:0"
            [metrics]
            enabled = false
        """)
        server = Lobos(["-c", config], home)
        address = re.search(r"^control: (\S+)$", server.printed(), re.M)[1]
        with Generic(address) as control:
            event = control.message("WatchTrace")
        for _ in range(ROUNDS):
            measure("left alone", server, seconds)
            watchers = [SlowWatcher(address, event, calls=50) for _ in range(WATCHERS // 50)]
            measure(f"{WATCHERS} watchers", server, seconds)
            for watcher in watchers:
                watcher.close()
            with contextlib.ExitStack() as stack:
                stack.enter_context(stopped(server.process, "lobos-control"))
                measure("stopped", server, seconds)
        server.stop()


def measure(state, server, seconds):
    wrk = ["wrk", "-t1", "-c16", f"-d{seconds}s", "--latency", f"{server.endpoint}/data/k"]
    said = subprocess.run(wrk, capture_output=True, text=True, check=True).stdout
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)[1]
    slow = re.search(r"99%\s+(\S+)", said)[1]
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    failed = failed[1] if failed else 0
    print(f"{state:14} {float(rate):9.0f} GET/s  99 % {slow}  {failed} failed", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)

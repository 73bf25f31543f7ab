#!/usr/bin/env python3
"""Runs every check of the repository, one stage after another, and counts the tests.

`make test` calls this. Stages: format, lints, Rust tests, security tests, crash tests, release build,
client tests. A stage that fails stops the run. The last line is `N passed, N failed, N skipped`; a Rust test that finds
it cannot run here says so with a line `skipped: NAME: REASON` and counts as skipped, as ignored
ones do. Needs cargo, a C compiler and Python 3.11.
"""

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
CLIENTS = REPOSITORY / "tests" / "clients"
SECURITY = REPOSITORY / "tests" / "security"
CRASH = REPOSITORY / "tests" / "crash"
MUTANTS = REPOSITORY / "tests" / "mutants"
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
# Lines that are shown of what one failed test printed.
FAILURE_LINES_MAX = 20
# Those whose tests go through `site` or `rooted`: LOBOS_TEST_ENGINE puts their buckets elsewhere.
BLOB_CLIENTS = [
    "test_addressing.py", "test_boto3_checksums.py", "test_boto3_conditions.py",
    "test_boto3_copy.py", "test_boto3_listing.py", "test_boto3_multipart.py",
    "test_boto3_objects.py", "test_boto3_versions.py", "test_crt.py", "test_keys.py", "test_minio.py",
    "test_object_store.py", "test_presigned.py", "test_rclone.py", "test_s3cmd.py", "test_s3fs.py",
]
RELEASE_BUILD = ["cargo", "build", "--release", "--bin", "lobos"]
STAGES = ["format", "lint", "rust", "security", "crash", "build", "clients"]
# Only when they are asked for.
LONG_STAGES = ["mutants", "spdk"]


def main(chosen):
    unknown = set(chosen) - set(STAGES + LONG_STAGES)
    if unknown:
        sys.exit(f"unknown stage {', '.join(sorted(unknown))}: choose from {', '.join(STAGES + LONG_STAGES)}")
    chosen = [stage for stage in STAGES + LONG_STAGES if stage in (chosen or STAGES)]
    counts, failed_stage = Counts(), None
    for stage in chosen:
        started = time.monotonic()
        print(f"== {stage}", flush=True)
        ahead = BuildAhead() if stage == "crash" and "build" in chosen else None
        ok = globals()[f"stage_{stage}"](counts)
        if ahead and not ok:
            ahead.stop()
        print(f"== {stage}: {'ok' if ok else 'FAILED'} in {time.monotonic() - started:.0f} s\n", flush=True)
        if not ok:
            failed_stage = stage
            break
    summary(counts, failed_stage)
    sys.exit(1 if failed_stage or counts.failed else 0)


class BuildAhead:
    """The release build, begun while the crash tests mostly wait for their disks; it only takes what
    they leave of the processors. The stage `build` waits for it on cargo's own lock."""

    def __init__(self):
        # In the stage before the debug build was made: from here on nothing else is compiled.
        self.process = subprocess.Popen(
            ["nice", "-n", "19", *RELEASE_BUILD, "--quiet"], cwd=REPOSITORY, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def stop(self):
        self.process.terminate()
        self.process.wait()


class Counts:
    """What ran so far; `skips` holds (name, reason)."""

    def __init__(self):
        self.passed, self.failed, self.skips = 0, 0, []


def summary(counts, failed_stage):
    if counts.skips:
        print("Skipped, and why:")
        for name, reason in counts.skips:
            print(f"  {name}: {reason}")
    if failed_stage:
        print(f"The stage `{failed_stage}` failed; later stages did not run.")
    print(f"{counts.passed} passed, {counts.failed} failed, {len(counts.skips)} skipped", flush=True)


def stage_format(_):
    return command(["cargo", "fmt", "--all", "--check"])


def stage_lint(_):
    return command(["cargo", "clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])


def stage_build(_):
    return command(RELEASE_BUILD)


def stage_rust(counts):
    """Unit and integration tests. What passing tests print stays in a file under target/."""
    report = TARGET / "rust-tests.txt"
    built = command(["cargo", "test", "--workspace", "--no-run"])
    if not built:
        return False
    # The same cases every time; another seed, or a larger number of cases, explores further.
    environment = {"PROPTEST_RNG_SEED": "20261125"} | os.environ
    process = subprocess.Popen(
        ["cargo", "test", "--workspace", "--no-fail-fast", "--", "--show-output"], cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    lines = []
    with report.open("w") as file:
        for line in process.stdout:
            file.write(line)
            lines.append(line.rstrip("\n"))
            if re.match(r"\s+(Running|Doc-tests) |test result:|test .* \.\.\. FAILED", line):
                print(line.rstrip("\n"), flush=True)
    status = process.wait()
    failed_before = counts.failed
    count_rust(lines, counts)
    if status != 0:
        print("\n".join(lines[-300:]))
        print(f"(the whole output is in {report})")
        print("\n".join(rust_failures(lines)), flush=True)
        counts.failed = max(counts.failed, failed_before + 1)
    return status == 0


def rust_failures(lines):
    """What went wrong, for whoever sees only the end of the output.

    Gives lines: each failed test with what it said when it panicked; each test binary that died,
    with the signal and the tests that it had not finished.
    """
    told, binary, finished, panics, failures = ["", "What failed:"], None, {}, {}, []
    name, in_backtrace = None, False
    for line in lines:
        running = re.match(r"\s+Running (?:unittests )?(\S+) \((\S+)\)", line)
        result = re.match(r"test (\S+)(?: - should panic)? \.\.\. (ok|FAILED|ignored)", line)
        said = re.match(r"---- (\S+) std(?:out|err) ----", line)
        died = re.search(r"process didn't exit successfully: `(\S+).*` \((signal: .*)\)$", line)
        if running:
            binary = Path(running[2])
            finished[binary.name] = set()
        elif result and binary:
            finished[binary.name].add(result[1])
            if result[2] == "FAILED":
                failures.append(f"{binary.name}: {result[1]}")
        elif said:
            name = f"{binary.name if binary else '?'}: {said[1]}"
            panics[name], in_backtrace = [], False
        elif line in ("failures:", "successes:") or line.startswith("test result:"):
            name = None
        elif name:
            in_backtrace = line == "stack backtrace:" or in_backtrace and "panicked at" not in line
            if line.strip() and not in_backtrace and "RUST_BACKTRACE" not in line:
                panics[name].append(line)
        if " a panic inside the blob engine " in line:
            told.append(f"  {line}")
        if died:
            told += died_binary(Path(died[1]), died[2], finished)
    for failure in failures:
        told.append(f"  {failure}")
        # A long output ends with what matters: the panic.
        told += [f"      {line}" for line in panics.get(failure, [])[-FAILURE_LINES_MAX:]]
    return told


def died_binary(path, signal, finished):
    listed = subprocess.run([path, "--list", "--format", "terse"], cwd=REPOSITORY,
                            capture_output=True, text=True, errors="replace").stdout
    tests = [line.removesuffix(": test") for line in listed.splitlines() if line.endswith(": test")]
    open_tests = [test for test in tests if test not in finished.get(path.name, set())]
    return [f"  {path.name} died ({signal}); not finished:", *(f"      {test}" for test in open_tests)]


def count_rust(lines, counts):
    said = set()
    for line in lines:
        result = re.match(r"test result: \S+ (\d+) passed; (\d+) failed; (\d+) ignored", line)
        ignored = re.match(r"test (\S+) .*\.\.\. ignored(?:, (.*))?$", line)
        skipped = re.match(r"skipped: ([^:\s]+(?:::[^:\s]+)*): (.*)", line)
        if result:
            counts.passed += int(result[1])
            counts.failed += int(result[2])
        elif ignored:
            counts.skips.append((ignored[1], ignored[2] or "ignored"))
        elif skipped and skipped[0] not in said:
            said.add(skipped[0])
            counts.skips.append((skipped[1], skipped[2]))
    # Each test that said so passed as far as the harness knows, once for all its lines.
    counts.passed -= len({line.split(": ")[1] for line in said})


def stage_security(counts):
    """Hostile requests: against the debug build, whose arithmetic is checked."""
    if not command(["cargo", "build", "--bin", "lobos"]):
        return False
    # Slow peers are mostly waited for.
    return python_tests(counts, SECURITY, TARGET / "debug" / "lobos", workers=2)


def stage_crash(counts):
    """kill -9, loss of power, full disks, failing system calls: against the debug build."""
    if not command(["cargo", "build", "--bin", "lobos"]):
        return False
    return python_tests(counts, CRASH, TARGET / "debug" / "lobos")


def stage_mutants(counts):
    """Each bug planted in the blob engine must make the test fail that is named beside it."""
    build = ["cargo", "test", "--test", "blob_crash"]
    environment = os.environ | {"RUSTC_WORKSPACE_WRAPPER": str(MUTANTS / "rustc")}
    listed = dict(line.split() for line in (MUTANTS / "planted.txt").read_text().splitlines())
    planted = set()
    for source in (REPOSITORY / "src" / "engine" / "blob").glob("*.rs"):
        planted |= set(re.findall(r'is_planted\("(\w+)"\)', source.read_text()))
    if planted != set(listed):
        print(f"planted.txt and the sources differ: {sorted(planted ^ set(listed))}")
        return False
    if not command([*build, "--no-run"], environment):
        return False
    for bug, test in listed.items():
        ran = subprocess.run([*build, "--", test], cwd=REPOSITORY, capture_output=True, text=True,
                             errors="replace", env=environment | {"LOBOS_MUTANT": bug})
        is_caught = ran.returncode != 0 and f"test {test} ... FAILED" in ran.stdout
        print(f"{'caught' if is_caught else 'NOT CAUGHT'}: {bug} by {test}", flush=True)
        counts.passed += is_caught
        counts.failed += not is_caught
    return counts.failed == 0


def stage_spdk(counts):
    """The client tests and the crash tests of a store on SPDK, for each bdev: against the debug
    build with the feature `spdk`, which `cargo test --features spdk` has made (tests/spdk.rs)."""
    binary = TARGET / "debug" / "lobos"
    good = True
    for bdev in ["malloc", "aio", "uring"]:
        print(f"The clients, their buckets in a store on SPDK's {bdev} bdev:", flush=True)
        good &= python_tests(counts, CLIENTS, binary, 0, BLOB_CLIENTS, engine=f"spdk-{bdev}")
    print("Kills, errors of the drive, requests that are cut off:", flush=True)
    return python_tests(counts, CRASH, binary, files=["test_spdk.py"], engine="spdk") and good


def stage_clients(counts):
    # More workers than this would only wait for the same disk.
    workers = min(os.cpu_count() or 1, 4)
    binary = TARGET / "release" / "lobos"
    if not python_tests(counts, CLIENTS, binary, workers):
        return False
    print("The same clients, their buckets in a blob store:", flush=True)
    return python_tests(counts, CLIENTS, binary, workers, BLOB_CLIENTS, engine="blob")


def python_tests(counts, room, binary, workers=0, files=(), engine="fs"):
    """Runs pytest in `room`, or these of its files, on that engine; `workers`: processes side by
    side, 0 for none beside this one."""
    python = client_python()
    if python is None:
        return False
    report = TARGET / f"{room.name}-{engine}-tests.xml"
    report.unlink(missing_ok=True)
    command_line, environment = python
    environment = os.environ | environment | {"PYTHONDONTWRITEBYTECODE": "1"}
    environment.setdefault("LOBOS_BINARY", str(binary))
    if files:
        environment["LOBOS_TEST_ENGINE"] = engine
    chosen = [room / file for file in files] or [room]
    ok = command([*command_line, "-m", "pytest", *chosen, "-q", "-n", workers, f"--junitxml={report}",
                  *os.environ.get("PYTEST_ARGS", "").split()], environment, room)
    if not report.is_file():
        counts.failed += 1
        return False
    for case in ElementTree.parse(report).iter("testcase"):
        skipped = case.find("skipped")
        if skipped is not None:
            counts.skips.append((f"{case.get('classname')}::{case.get('name')}",
                                 skipped.get("message", "skipped")))
        elif case.find("failure") is not None or case.find("error") is not None:
            counts.failed += 1
        else:
            counts.passed += 1
    return ok


def client_python():
    """(command, environment) of a Python with the pinned clients, made when it is not there yet.

    A virtual environment under target/; where the venv module lacks ensurepip (Debian without
    python3-venv), a plain folder filled by `pip install --target`.
    """
    requirements = CLIENTS / "requirements.txt"
    version = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()
    home = TARGET / "client-venv"
    stamp = home / "complete.txt"
    if not (stamp.is_file() and stamp.read_text() == version):
        shutil.rmtree(home, ignore_errors=True)
        if not install(home, requirements):
            return None
        stamp.write_text(version)
    if (home / "bin" / "python").exists():
        return [home / "bin" / "python"], {}
    return [sys.executable], {"PYTHONPATH": str(home / "packages")}


def install(home, requirements):
    quiet = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements]
    if importlib.util.find_spec("ensurepip") and command([sys.executable, "-m", "venv", home]):
        return command([home / "bin" / "python", *quiet])
    if importlib.util.find_spec("pip"):
        print("The venv module is incomplete here (Debian: apt install python3-venv);"
              " installing with `pip install --target` instead.")
        shutil.rmtree(home, ignore_errors=True)
        return command([sys.executable, *quiet, "--target", home / "packages"])
    print("The client tests need Python's venv module or pip, and this Python"
          f" ({sys.executable}) has neither. On Debian: apt install python3-venv")
    return False


def command(words, environment=None, directory=REPOSITORY):
    print("$", " ".join(map(str, words)), flush=True)
    return subprocess.run(list(map(str, words)), cwd=directory, env=environment).returncode == 0


if __name__ == "__main__":
    main(sys.argv[1:])

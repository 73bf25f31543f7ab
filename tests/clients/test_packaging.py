"""What is installed beside the program: systemd's units, and the image's way to start it."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import boto3
import pytest
from botocore.config import Config

from lobos import ACCESS_KEY, BINARY, REPOSITORY, SECRET_KEY

UNITS = REPOSITORY / "contrib" / "systemd"
# The exposure that systemd computes, in tenths: 0 to 100, less is better.
EXPOSURE_MAX = 20


@pytest.fixture
def units(tmp_path):
    """The units, and systemd's word on them."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    for unit in UNITS.iterdir():
        text = unit.read_text().replace("/usr/local/bin/lobos", str(BINARY))
        (tmp_path / unit.name).write_text(text)

    def judge(*words):
        return subprocess.run([analyze, *words], cwd=tmp_path, capture_output=True, text=True,
                              timeout=60)

    return judge


def test_systemd_finds_nothing_wrong_with_the_units(units):
    done = units("verify", "./lobos.service", "./lobos.socket")
    # Of other units of this machine it may say what it likes.
    ours = [line for line in done.stderr.splitlines() if "lobos" in line]
    assert not ours and done.returncode == 0, done


def test_the_service_is_hardened(units):
    done = units("security", "--offline=yes", f"--threshold={EXPOSURE_MAX}", "./lobos.service")
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd cannot judge a unit that is not loaded")
    assert done.returncode == 0, done.stdout[-300:]


def test_the_service_is_handed_the_file_that_the_documentation_installs():
    unit = (UNITS / "lobos.service").read_text()
    name, file = re.search(r"^LoadCredential=([^:\n]+):(.+)$", unit, re.M).groups()
    assert re.search(rf"^ExecStart=\S+ -c %d/{re.escape(name)}$", unit, re.M)
    assert f" {file} " in (REPOSITORY / "docs" / "operations.md").read_text()


def test_the_image_works_as_any_user():
    """What the Dockerfile sets, without Docker: directories that anybody may write to, a user that
    nobody knows, no home."""
    if os.getuid() != 0:
        pytest.skip("only root can be another user")
    dockerfile = (REPOSITORY / "contrib" / "docker" / "Dockerfile").read_text()
    environment = dict(re.findall(r"(LOBOS_\w+)=(\S+)", re.search(r"^ENV (.*)$", dockerfile, re.M)[1]))
    assert environment.keys() == {"LOBOS_ROOT", "LOBOS_STATE_DIR", "LOBOS_LISTEN"}
    folder = Path(tempfile.mkdtemp(prefix="lobos-image-"))
    folder.chmod(0o755)
    try:
        program = shutil.copy(BINARY, folder)
        for name in re.search(r"mkdir -m 1777 (.*)$", dockerfile, re.M)[1].split():
            (folder / name.strip("/")).mkdir()
            (folder / name.strip("/")).chmod(0o1777)
        environment = {name: str(folder / value.strip("/")) if value.startswith("/") else value
                       for name, value in environment.items()}
        environment |= {"LOBOS_LISTEN": "127.0.0.1:0", "LOBOS_ROOT_USER": ACCESS_KEY,
                        "LOBOS_ROOT_PASSWORD": SECRET_KEY}
        with (folder / "out").open("wb") as out:
            server = subprocess.Popen([program, "serve"], env=environment, cwd="/", stdout=out,
                                      stderr=out, user=54321, group=54321, extra_groups=[])
        try:
            port = listening(folder / "out", server)
            s3 = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1",
                              aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY,
                              config=Config(retries={"total_max_attempts": 1}))
            s3.create_bucket(Bucket="fresh")
            s3.put_object(Bucket="fresh", Key="k", Body=b"1")
            assert (folder / "data" / "fresh" / "k").stat().st_uid == 54321
        finally:
            server.send_signal(signal.SIGTERM)
            assert server.wait(20) == 0
    finally:
        shutil.rmtree(folder)


def listening(out, server):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and server.poll() is None:
        if found := re.search(r"^Listening on \S+:(\d+)", out.read_text(), re.M):
            return found[1]
        time.sleep(0.02)
    raise AssertionError(f"it did not start:\n{out.read_text()}")

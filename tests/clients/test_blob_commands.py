"""`lobos blob format|info|check|export|grow`, on whole stores and on damaged ones."""

import json
import os
import shutil
import subprocess

import pytest

from lobos import BINARY, clean_environment

LISTEN = ("--listen", "127.0.0.1:0")
BLOCK = 4096


@pytest.fixture
def blob(tmp_path):
    """`blob(*arguments)`: runs `lobos blob`; (status, stdout, stderr)."""
    def blob(*arguments):
        done = subprocess.run(
            [BINARY, "blob", *map(str, arguments)], env=clean_environment(tmp_path), cwd=tmp_path,
            capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
        assert "panic" not in done.stderr, done.stderr
        return done.returncode, done.stdout, done.stderr
    return blob


@pytest.fixture
def filled(start, image, payload):
    """`filled(objects, size)`: a stopped store with these objects in the bucket `lobos`."""
    def filled(objects, size="64MiB", kill=False):
        server = start("serve", "--blob", f"{image}:{size}", *LISTEN)
        s3 = server.client()
        for key, body in objects.items():
            s3.put_object(Bucket="lobos", Key=key, Body=body, Metadata={"about": ascii(key[:20])[1:-1]})
        if kill:
            server.process.kill()
            server.process.wait()
            server.stop = lambda: None
        else:
            server.stop()
        return image
    return filled


def flip(image, at, count=1):
    with open(image, "r+b") as file:
        file.seek(at)
        old = file.read(count)
        file.seek(at)
        file.write(bytes(byte ^ 0x55 for byte in old))


def places(image, needle):
    content, found, at = image.read_bytes(), [], -1
    while (at := content.find(needle, at + 1)) >= 0:
        found.append(at)
    return found


def files_below(directory):
    return {str(path.relative_to(directory)): path.read_bytes()
            for path in directory.rglob("*") if path.is_file()}


def test_format_makes_a_store_and_refuses_what_holds_anything(blob, image, start):
    assert blob("format", f"{image}:32MiB")[0] == 0
    assert image.stat().st_size == 32 << 20
    status, _, error = blob("format", image)
    assert status == 1 and "--force" in error and str(image) in error
    status, _, error = blob("format", f"{image}:64MiB")
    assert status == 1 and "grow" in error
    image.write_bytes(bytes(31 << 20) + b"the end of somebody's file".ljust(1 << 20, b"\0"))
    assert blob("format", image)[0] == 1
    assert blob("format", "--force", image)[0] == 0
    start("serve", "--blob", image, *LISTEN).client().put_object(Bucket="lobos", Key="k", Body=b"x")
    image.unlink()
    status, _, error = blob("format", image)
    assert status == 1 and f"{image}:10GiB" in error
    for no_store in ("info", "check", "grow"):
        assert blob(no_store, image)[0] == 1
    image.write_bytes(bytes(32 << 20))
    for no_store in ("info", "check", "grow"):
        status, _, error = blob(no_store, image)
        assert status == 1 and "lobos blob format" in error, error


def test_info_tells_people_and_programs(blob, filled, payload):
    image = filled({"large": payload(2_000_000), "small": b"x"})
    status, text, _ = blob("info", image)
    assert status == 0
    for word in ("64.0 MiB", "Free", "Objects", "Journal", "Checkpoint", "Opened      1 times"):
        assert word in text
    info = json.loads(blob("info", "--json", image)[1])
    assert (info["size_bytes"], info["objects"], info["buckets"]) == (64 << 20, 2, 1)
    assert info["journal"]["used_bytes"] == 0, "an orderly stop leaves nothing to replay"
    assert info["checkpoint"]["size_bytes"] > 0
    assert 0 <= info["fragmentation"] < 0.1
    assert (64 << 20) - (6 << 20) < info["free_bytes"] < 62 << 20


def test_p16_commands_and_a_server_exclude_one_another(blob, start, image):
    server = start("serve", "--blob", f"{image}:32MiB", *LISTEN)
    for arguments in (("info",), ("check", "--data"), ("grow",), ("format", "--force")):
        status, _, error = blob(*arguments, image)
        assert status == 1 and "another process has it open" in error, arguments
    assert blob("export", image, "out")[0] == 1
    server.client().put_object(Bucket="lobos", Key="k", Body=b"x")


def test_a_check_changes_nothing(blob, filled, payload):
    image = filled({"k": payload(300_000)}, kill=True)
    before = image.read_bytes()
    for arguments in (("check", "--data", image), ("info", image), ("export", image, "out")):
        assert blob(*arguments)[0] == 0
    assert image.read_bytes() == before


def test_a_damaged_object_is_found_by_block_and_key(blob, filled, payload, tmp_path):
    objects = {"whole": payload(200_000, 1), "dir/damaged": payload(200_000, 2), "tiny": b"tiny one"}
    image = filled(objects)
    status, text, _ = blob("check", "--data", image)
    assert status == 0 and "3 objects" in text and "400008 bytes" in text, text
    [at] = places(image, objects["dir/damaged"][70_000:70_100])
    flip(image, at)
    assert blob("check", image)[0] == 0, "without --data the bytes are not read"
    status, text, _ = blob("check", "--data", image)
    chunk = (at - (70_000 - 65_536)) // BLOCK
    assert status == 1 and f"block {chunk}: the bytes of: lobos/dir/damaged" in text, text
    status, _, error = blob("export", image, "strict")
    assert status == 1 and "lobos/dir/damaged" in error and "--salvage" in error
    status, text, error = blob("export", "--salvage", image, "out")
    assert status == 1 and "lobos/dir/damaged" in error and "2 objects" in text
    assert files_below(tmp_path / "out") == {
        f"lobos/{key}": body for key, body in objects.items() if key != "dir/damaged"}


def test_damaged_metadata_names_its_key(blob, filled, tmp_path):
    image = filled({"k1": b"1" * 5000, "k2": b"2" * 5000})
    [at] = places(image, b'["about","k1"]')
    flip(image, at)
    status, text, _ = blob("check", image)
    assert status == 1 and f"block {at // BLOCK}: the metadata of: lobos/k1" in text, text
    assert blob("export", "--salvage", image, "out")[0] == 1
    assert files_below(tmp_path / "out") == {"lobos/k2": b"2" * 5000}


def test_one_damaged_copy_costs_nothing_and_is_mended(blob, filled, start):
    image = filled({"k": b"x" * 5000})
    flip(image, 100)
    flip(image, places(image, b"LBC1")[0] + 100)
    status, text, _ = blob("check", "--data", image)
    assert status == 1 and "block 0: a copy of the superblock; another copy is whole" in text
    assert "a copy of a checkpoint segment" in text
    server = start("serve", "--blob", image, *LISTEN)
    assert server.client().get_object(Bucket="lobos", Key="k")["Body"].read() == b"x" * 5000
    server.stop()
    assert blob("check", "--data", image)[0] == 0


@pytest.mark.parametrize("kill", [False, True], ids=["checkpoint", "journal"])
def test_without_superblocks_everything_can_be_salvaged(blob, filled, start, tmp_path, kill):
    objects = {f"k{n}": bytes([n]) * (1 + n * 3000) for n in range(10)}
    image = filled(objects, kill=kill)
    flip(image, 100)
    flip(image, 4096 * BLOCK + 100)
    status, text, _ = blob("check", image)
    assert status == 1 and "superblocks" in text and "--salvage" in text
    assert blob("export", image, "strict")[0] == 1
    status, _, error = blob("export", "--salvage", image, "out")
    assert status == 0 and "superblocks" in error, error
    assert files_below(tmp_path / "out") == {f"lobos/{key}": body for key, body in objects.items()}


def test_a_hole_in_the_checkpoint_costs_what_was_in_it(blob, filled, start, tmp_path):
    objects = {f"{n:04}-{'key' * 300}": b"%d" % n for n in range(600)}
    image = filled(objects)
    numbers = {at: int.from_bytes(image.read_bytes()[at + 32:at + 36], "little")
               for at in places(image, b"LBC1")}
    copies = [at for at, number in numbers.items() if number == 2]
    assert len(copies) >= 2 and max(numbers.values()) >= 4, numbers
    for at in copies:
        flip(image, at + 500)
    status, text, _ = blob("check", image)
    assert status == 1 and any(f"block {at // BLOCK}" in text for at in copies), text
    status, _, error = blob("export", "--salvage", image, "out")
    assert "checkpoint segments 2 to 2 are damaged" in error, error
    names = (tmp_path / "out" / ".keys" / "names.jsonl").read_text().splitlines()
    names = map(json.loads, names)
    saved = {name["key"]: (tmp_path / "out" / ".keys" / name["file"]).read_bytes() for name in names}
    assert 300 < len(saved) < 600
    assert all(objects[key] == body for key, body in saved.items()), "never wrong bytes"


def test_export_writes_every_key_and_nothing_outside(blob, filled, tmp_path):
    objects = {key: key.encode() for key in (
        "a", "a/b", "x//y", "../up", "/etc/passwd", "dir/", ".lobos/tmp/x", "deep/er/file", "ü &",
        "s" * 300, ".", "con")}
    image = filled(objects)
    before = set(os.listdir(tmp_path))
    status, text, _ = blob("export", image, "out/of/it")
    assert status == 0 and f"{len(objects)} objects" in text and "names.jsonl" in text
    assert set(os.listdir(tmp_path)) - before == {"out"}
    out = tmp_path / "out" / "of" / "it"
    names = [json.loads(line) for line in (out / ".keys" / "names.jsonl").read_text().splitlines()]
    found = {name["key"]: (out / ".keys" / name["file"]).read_bytes() for name in names}
    found |= {str(path.relative_to(out / "lobos")): path.read_bytes()
              for path in (out / "lobos").rglob("*") if path.is_file()}
    assert found == objects
    status, _, error = blob("export", image, "out/of/it")
    assert status == 1 and "not empty" in error
    (tmp_path / "empty").mkdir()
    assert blob("export", image, "empty")[0] == 0


def test_versions_are_counted_checked_and_left_out_of_an_export(blob, image, start, tmp_path, payload):
    server = start("serve", "--blob", f"{image}:64MiB", *LISTEN)
    s3 = server.client()
    s3.put_bucket_versioning(Bucket="lobos", VersioningConfiguration={"Status": "Enabled"})
    old = payload(100_000, seed=2)
    for body in (old, b"new"):
        s3.put_object(Bucket="lobos", Key="k", Body=body)
    s3.put_object(Bucket="lobos", Key="gone", Body=b"x")
    s3.delete_object(Bucket="lobos", Key="gone")
    server.stop()
    info = json.loads(blob("info", "--json", image)[1])
    assert (info["objects"], info["versions"]) == (1, 3)
    status, text, _ = blob("check", "--data", image)
    assert status == 0 and "1 objects, 3 older versions and delete markers" in text, text
    status, text, _ = blob("export", image, tmp_path / "out")
    assert status == 0 and "3 older versions and delete markers were left out" in text, text
    assert files_below(tmp_path / "out") == {"lobos/k": b"new"}
    flip(image, places(image, old[:100])[0] + 5)
    status, text, _ = blob("check", "--data", image)
    assert status == 1 and "an older version of lobos/k" in text, text


def test_a_store_of_format_1_is_read_and_becomes_one_of_format_2(blob, filled, start, payload):
    image = filled({"k": b"bytes"})
    with open(image, "r+b") as file:
        for block in (0, 4096):
            file.seek(block * BLOCK)
            superblock = bytearray(file.read(BLOCK))
            assert superblock[8:12] == b"\2\0\0\0"
            superblock[8:16] = b"\1\0\0\0\0\0\0\0"
            superblock[12:16] = crc32c(superblock).to_bytes(4, "little")
            file.seek(block * BLOCK)
            file.write(superblock)
    assert blob("check", image)[0] == 0
    assert image.read_bytes()[8] == 1, "who only reads changes nothing"
    server = start("serve", "--blob", image, *LISTEN)
    assert server.client().get_object(Bucket="lobos", Key="k")["Body"].read() == b"bytes"
    server.stop()
    content = bytearray(image.read_bytes())
    assert content[8] == content[4096 * BLOCK + 8] == 2
    for block in (0, 4096):
        at = block * BLOCK
        content[at + 8:at + 16] = b"\3\0\0\0\0\0\0\0"
        content[at + 12:at + 16] = crc32c(content[at:at + BLOCK]).to_bytes(4, "little")
    image.write_bytes(content)
    status, _, error = blob("info", image)
    assert status == 1 and "format version 3" in error, error


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_grow_uses_a_larger_file(blob, filled, start, payload):
    data = payload(1_000_000)
    image = filled({"k": data}, "32MiB")
    status, _, error = blob("grow", image)
    assert status == 1 and "larger" in error
    assert blob("grow", f"{image}:16MiB")[0] == 1 and image.stat().st_size == 32 << 20
    status, text, _ = blob("grow", f"{image}:64MiB")
    assert status == 0 and str(64 << 20) in text
    with open(image, "ab") as file:
        file.truncate(80 << 20)
    assert blob("grow", image)[0] == 0, "what has become larger by other means"
    server = start("serve", "--blob", image, *LISTEN)
    s3 = server.client()
    for number in range(50):
        s3.put_object(Bucket="lobos", Key=f"more{number}", Body=data)
    assert s3.get_object(Bucket="lobos", Key="k")["Body"].read() == data
    server.stop()
    assert blob("check", "--data", image)[0] == 0


@pytest.fixture
def device(tmp_path):
    """A loop device of 32 MiB, and `enlarge(size)` for it."""
    if os.geteuid() != 0 or shutil.which("losetup") is None:
        pytest.skip("needs root and losetup for a block device")
    backing = tmp_path / "backing"
    backing.write_bytes(bytes(32 << 20))
    # The block size of most drives, larger than that of the loop driver's default.
    made = subprocess.run(["losetup", "--find", "--show", "--sector-size", "4096", backing],
                          capture_output=True, text=True)
    if made.returncode != 0:
        pytest.skip("needs loop devices: " + made.stderr.strip())
    path = made.stdout.strip()

    def enlarge(size):
        os.truncate(backing, size)
        subprocess.run(["losetup", "--set-capacity", path], check=True)

    yield path, enlarge
    subprocess.run(["losetup", "--detach", path], check=True)


def test_every_command_works_on_a_block_device(blob, device, start, payload, tmp_path):
    path, enlarge = device
    assert blob("format", f"{path}:16MiB")[0] == 1, "a device has the size it has"
    assert blob("format", path)[0] == 0
    assert blob("format", path)[0] == 1, "it holds a store now"
    data = payload(1_000_000)
    config = tmp_path / "lobos.cfg"
    config.write_text(f'[blob]\npath = "{path}"\ndiscard = true\n')
    server = start("serve", "--config", config, *LISTEN)
    assert f"blob: {path}" in server.printed()
    s3 = server.client()
    for _ in range(60):
        s3.put_object(Bucket="lobos", Key="k", Body=data)
    assert blob("info", path)[0] == 1, "the server has it open"
    server.stop()
    info = json.loads(blob("info", "--json", path)[1])
    assert (info["size_bytes"], info["objects"]) == (32 << 20, 1)
    assert blob("check", "--data", path)[0] == 0
    assert blob("export", path, "out")[0] == 0
    assert (tmp_path / "out" / "lobos" / "k").read_bytes() == data
    assert blob("grow", path)[0] == 1, "it is not larger yet"
    enlarge(64 << 20)
    assert blob("grow", path)[0] == 0
    assert json.loads(blob("info", "--json", path)[1])["size_bytes"] == 64 << 20
    assert blob("check", "--data", path)[0] == 0

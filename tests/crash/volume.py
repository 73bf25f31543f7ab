"""File systems of a test's own: images on loop devices, mounted for as long as the test runs."""

import os
import shutil
import subprocess

import pytest

TOOLS = ["mount", "umount", "losetup", "mkfs.ext4", "mkfs.xfs", "xfs_io"]
MIB = 1 << 20


class Volume:
    """`make`: the command that makes the file system, without the image's path."""

    def __init__(self, home, make, size_mib, options="loop"):
        require_volumes()
        home.mkdir(parents=True, exist_ok=True)
        self.image, self.mountpoint, self.options = home / "image", home / "mounted", options
        with self.image.open("wb") as image:
            image.truncate(size_mib * MIB)
        do(*make, self.image)
        self.mountpoint.mkdir()
        self.mount()

    def mount(self):
        do("mount", "-o", self.options, self.image, self.mountpoint)
        self.is_mounted = True

    def unmount(self):
        do("umount", self.mountpoint)
        self.is_mounted = False

    def lose_power(self):
        """From now on nothing reaches the disk: neither dirty pages nor the log in memory.

        An fsync that is under way at this instant may still report success on ext4, though what it
        synced is lost (seen without Lobos, too). No such kernel survives a real loss of power, so
        the tests take no answer for a promise that comes after this was called.
        """
        do("xfs_io", "-x", "-c", "shutdown", self.mountpoint)

    def remove(self):
        if self.is_mounted:
            self.unmount()
        self.image.unlink()


KINDS = {
    "ext4": (["mkfs.ext4", "-q", "-F"], 320),
    "ext4-1k": (["mkfs.ext4", "-q", "-F", "-b", "1024"], 320),
    "xfs": (["mkfs.xfs", "-q", "-f"], 320),
}


def require_volumes():
    """Skips the test where it may not mount anything."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount file systems")
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    probe = subprocess.run(["losetup", "--find"], capture_output=True, text=True)
    if probe.returncode != 0:
        pytest.skip("needs loop devices: " + probe.stderr.strip())


def do(*words):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if done.returncode != 0 and "mount" in str(words[0]) and "unknown filesystem" in done.stderr:
        pytest.skip(f"this kernel lacks the file system: {done.stderr.strip()}")
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout

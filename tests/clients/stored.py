"""What stands for a bucket's directory where the bucket is in a blob store."""

from types import SimpleNamespace

import pytest
from botocore.exceptions import ClientError


class Stored:
    """An object under the name of the file that it would be: tests that look whether a file has
    the bytes look into the store. Whatever else a test does to files skips it: it is about
    plain files."""

    def __init__(self, s3, parts):
        self._s3, self._parts = s3, parts

    def __truediv__(self, name):
        return Stored(self._s3, (*self._parts, *str(name).split("/")))

    @property
    def parent(self):
        return Stored(self._s3, self._parts[:-1])

    def read_bytes(self):
        bucket, *key = self._parts
        return self._s3.get_object(Bucket=bucket, Key="/".join(key))["Body"].read()

    def read_text(self):
        return self.read_bytes().decode()

    def stat(self):
        return SimpleNamespace(st_size=len(self.read_bytes()))

    def exists(self):
        """An object, keys below it, or a bucket."""
        bucket, *key = self._parts
        try:
            found = self._s3.list_objects_v2(Bucket=bucket, Prefix="/".join(key))
        except ClientError as error:
            assert error.response["Error"]["Code"] == "NoSuchBucket", error
            return False
        names = [entry["Key"] for entry in found.get("Contents", [])]
        return not key or any(f"{name}/".startswith("/".join(key) + "/") for name in names)

    is_dir = exists

    def iterdir(self):
        """The store makes no file beside a bucket, since a bucket has no place."""
        return iter(())

    def __fspath__(self):
        pytest.skip("about plain files")

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        pytest.skip(f"about plain files: {name}")

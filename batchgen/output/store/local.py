"""An output in a directory."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from batchgen.errors import StoreError
from batchgen.output.store.base import SCRATCH, Put


class LocalStore:
    """A directory."""

    def __init__(self, path: str | Path) -> None:
        self.root = Path(path).absolute()
        self.url = str(self.root)

    def put_new(self, name: str, data: bytes) -> Put:
        target = self.root / name
        with _local_errors(target), self._scratch(data) as scratch:
            _make_folder(target.parent)
            try:
                os.link(scratch, target)
            except FileExistsError:
                return Put.EXISTS
            _sync_directory(target.parent)
        return Put.CREATED

    def put(self, name: str, data: bytes) -> None:
        target = self.root / name
        with _local_errors(target), self._scratch(data) as scratch:
            _make_folder(target.parent)
            os.replace(scratch, target)

    def get(self, name: str) -> bytes | None:
        with _local_errors(self.root / name):
            try:
                return (self.root / name).read_bytes()
            except FileNotFoundError:
                return None

    def list(self, prefix: str) -> Iterator[str]:
        with _local_errors(self.root / prefix):
            for folder, _, files in os.walk(self.root / prefix, onerror=_unless_missing):
                for file in files:
                    yield os.path.relpath(os.path.join(folder, file), self.root)

    def delete(self, name: str) -> None:
        with _local_errors(self.root / name):
            (self.root / name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _scratch(self, data: bytes) -> Iterator[Path]:
        """A synced temporary file with `data`, gone at the end."""
        folder = self.root / SCRATCH
        folder.mkdir(parents=True, exist_ok=True)
        scratch = folder / uuid.uuid4().hex
        try:
            with open(scratch, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield scratch
        finally:
            scratch.unlink(missing_ok=True)


@contextlib.contextmanager
def _local_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"output {path}: {error.strerror or error}", "mend it and run again: nothing is lost") from error


def _unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _make_folder(path: Path) -> None:
    if not path.is_dir():
        _make_folder(path.parent)
        path.mkdir(exist_ok=True)
        _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

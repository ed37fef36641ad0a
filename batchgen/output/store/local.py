"""An output in a local directory. The directory itself may be a link; below it no link is followed, so that nobody who can write
into an output makes a job write, list or delete elsewhere."""

import contextlib
import errno
import fcntl
import os
import stat
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from batchgen.errors import StoreError

SCRATCH = "_batchgen/tmp"
LOCK_SECONDS = 10.0  # that a swap waits for another one
_FOLDER = os.O_RDONLY | os.O_DIRECTORY
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe is opened at once, and refused


class _At(NamedTuple):
    """A name in an open folder."""

    folder: int
    name: str


class LocalStore:
    """A directory. Every method raises StoreError when the store fails."""

    def __init__(self, path: str | Path) -> None:
        self.root = Path(path).absolute()
        self.url = str(self.root)

    def put_new(self, name: str, data: bytes) -> bool:
        """Create `name`, whole and durable. False where it exists; then nothing has changed."""
        with self._scratch(name, data) as (scratch, target):
            try:
                os.link(
                    scratch.name,
                    target.name,
                    src_dir_fd=scratch.folder,
                    dst_dir_fd=target.folder,
                    follow_symlinks=False,
                )
            except FileExistsError:
                return False
            os.fsync(target.folder)
        return True

    def put(self, name: str, data: bytes) -> None:
        """Replace `name` as a whole."""
        with self._scratch(name, data) as (scratch, target):
            os.replace(scratch.name, target.name, src_dir_fd=scratch.folder, dst_dir_fd=target.folder)

    def swap(self, name: str, old: bytes, new: bytes) -> bool:
        """Replace `name` where it still holds `old`. False where it does not; then nothing has changed."""
        with self._at(name, make=True) as target, _locked(target.folder):
            if self.get(name) != old:
                return False
            self.put(name, new)
        return True

    def get(self, name: str) -> bytes | None:
        """The object, None where there is none."""
        with (
            contextlib.suppress(FileNotFoundError),
            self._at(name) as at,
            open(os.open(at.name, _FILE, dir_fd=at.folder), "rb") as file,
        ):
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(errno.EINVAL, "not a regular file")
            return file.read()
        return None

    def list(self, prefix: str) -> Iterator[str]:
        """Names under the folder `prefix`, in any order; a link is a name like that of a file."""
        names: list[str] = []
        with contextlib.suppress(FileNotFoundError), self._at(f"{prefix}/." if prefix else ".") as at:
            names += _walk(at.folder, f"{prefix}/" if prefix else "")
        return iter(names)

    def delete(self, name: str) -> None:
        """Remove `name`; no error where there is none."""
        with contextlib.suppress(FileNotFoundError), self._at(name) as at:
            os.unlink(at.name, dir_fd=at.folder)

    def delete_all(self, names: Iterable[str]) -> None:
        for name in names:
            self.delete(name)

    @contextlib.contextmanager
    def _at(self, name: str, make: bool = False) -> Iterator[_At]:
        """Where `name` is, its folders made if they are wanted. Raises FileNotFoundError where they are not there, and StoreError
        for every other OSError, also of what is done there."""
        *folders, last = name.split("/")
        with self._errors(name), contextlib.ExitStack() as opened:

            def enter(folder: str | Path, flags: int, within: int | None = None) -> int:
                descriptor = os.open(folder, flags, dir_fd=within)
                opened.callback(os.close, descriptor)
                return descriptor

            if make:
                _make_root(self.root)
            here = enter(self.root, _FOLDER)
            for folder in folders:
                try:
                    here = enter(folder, _FOLDER | os.O_NOFOLLOW, here)
                except FileNotFoundError:
                    if not make:
                        raise
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(folder, dir_fd=here)
                    os.fsync(here)
                    here = enter(folder, _FOLDER | os.O_NOFOLLOW, here)
            yield _At(here, last)

    @contextlib.contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        path = self.root / name
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            linked = [each for each in (path, *path.parents) if self.root in each.parents and os.path.islink(each)]
            cause = f"{linked[-1]} is a symbolic link, which is not followed" if linked else error.strerror or error
            raise StoreError(f"output {path}: {cause}", "mend it and run again: nothing is lost") from error

    @contextlib.contextmanager
    def _scratch(self, name: str, data: bytes) -> Iterator[tuple[_At, _At]]:
        """A synced temporary file with `data`, deleted at the end, and where `name` is to be."""
        try:
            with self._at(name, make=True) as target, self._at(f"{SCRATCH}/{uuid.uuid4().hex}", make=True) as scratch:
                try:
                    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
                    with open(os.open(scratch.name, flags, 0o666, dir_fd=scratch.folder), "wb") as file:
                        file.write(data)
                        file.flush()
                        os.fsync(file.fileno())
                    yield scratch, target
                finally:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(scratch.name, dir_fd=scratch.folder)
        except FileNotFoundError as error:
            raise StoreError(f"output {self.root / name}: {error.strerror}", "mend it and run again: nothing is lost") from error


def _walk(folder: int, prefix: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                yield prefix + entry.name
                continue
            with contextlib.suppress(FileNotFoundError):
                inner = os.open(entry.name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
                try:
                    yield from _walk(inner, f"{prefix}{entry.name}/")
                finally:
                    os.close(inner)


@contextlib.contextmanager
def _locked(folder: int) -> Iterator[None]:
    """Hold the lock of an open folder. A file system without locks goes without."""
    give_up = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > give_up:
                raise BlockingIOError(errno.EAGAIN, "another process that stands still holds its lock") from None
            time.sleep(0.02)
        except OSError:
            yield
            return
        else:
            break
    try:
        yield
    finally:
        fcntl.flock(folder, fcntl.LOCK_UN)


def _make_root(path: Path) -> None:
    if not path.is_dir():
        _make_root(path.parent)
        path.mkdir(exist_ok=True)
        descriptor = os.open(path.parent, _FOLDER)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

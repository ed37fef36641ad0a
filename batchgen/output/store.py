"""The output store, a local directory or a prefix in an object store.

`put_new` is the only way in which rows become visible: it writes a whole object under a name that does not exist yet, or
changes nothing. An object store does it by one conditional PUT (never multipart, which is unconditional), a local file
system by a synced temporary file, a hard link and a synced directory. `put` overwrites and is for progress files only."""

import contextlib
import os
import random
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import obstore
from obstore import exceptions

from batchgen.errors import InputError, StoreError, safe_message

SCRATCH = "_batchgen/tmp"
ATTEMPTS = 6  # how often a call to an object store is made at most
FINAL = (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError, PermissionError)
"""Errors after which nothing is tried again."""
MISSING = (exceptions.NotFoundError, FileNotFoundError)
T = TypeVar("T")


class LocalStore:
    """A directory. Every method raises StoreError when the store fails."""

    def __init__(self, path: str | Path) -> None:
        self.root = Path(path).absolute()
        self.url = str(self.root)

    def put_new(self, name: str, data: bytes) -> bool:
        """Create `name`, whole and durable. False where it exists; then nothing has changed."""
        with self._scratch(name, data) as (scratch, target):
            try:
                os.link(scratch, target)
            except FileExistsError:
                return False
            _sync_directory(target.parent)
        return True

    def put(self, name: str, data: bytes) -> None:
        """Replace `name` as a whole."""
        with self._scratch(name, data) as (scratch, target):
            os.replace(scratch, target)

    def get(self, name: str) -> bytes | None:
        """The object, None where there is none."""
        with self._errors(name) as path, contextlib.suppress(FileNotFoundError):
            return path.read_bytes()
        return None

    def list(self, prefix: str) -> Iterator[str]:
        """Names under the folder `prefix`, in any order."""
        with self._errors(prefix) as path:
            for folder, _, files in os.walk(path, onerror=_unless_missing):
                for file in files:
                    yield os.path.relpath(os.path.join(folder, file), self.root)

    def delete(self, name: str) -> None:
        """Remove `name`; no error where there is none."""
        with self._errors(name) as path:
            path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _errors(self, name: str) -> Iterator[Path]:
        path = self.root / name
        try:
            yield path
        except OSError as error:
            raise StoreError(f"output {path}: {error.strerror or error}", "mend it and run again: nothing is lost") from error

    @contextlib.contextmanager
    def _scratch(self, name: str, data: bytes) -> Iterator[tuple[Path, Path]]:
        """A synced temporary file with `data`, deleted at the end, and the path of `name`, whose folder exists."""
        scratch = self.root / SCRATCH / uuid.uuid4().hex
        with self._errors(name) as target:
            scratch.parent.mkdir(parents=True, exist_ok=True)
            try:
                with open(scratch, "xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                _make_folder(target.parent)
                yield scratch, target
            finally:
                scratch.unlink(missing_ok=True)


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


class ObjectStore:
    """A prefix of a bucket, with LocalStore's methods. After an unknown outcome (a lost answer, a 503) a call is made again."""

    def __init__(self, url: str, client: obstore.store.ObjectStore) -> None:
        self.url, self._client = url, client

    def put_new(self, name: str, data: bytes) -> bool:
        def create() -> bool:
            try:
                obstore.put(self._client, name, data, mode="create", use_multipart=False)
            except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
                # S3's 409 comes here too, and says only that another PUT was under way, which may have failed.
                obstore.head(self._client, name)
                return False
            return True

        return self._retry(name, create)

    def put(self, name: str, data: bytes) -> None:
        self._retry(name, lambda: obstore.put(self._client, name, data, use_multipart=False))

    def get(self, name: str) -> bytes | None:
        with contextlib.suppress(*MISSING):
            return self._retry(name, lambda: bytes(obstore.get(self._client, name).bytes()), MISSING)
        return None

    def list(self, prefix: str) -> Iterator[str]:
        pages = self._retry(prefix, lambda: [*obstore.list(self._client, prefix, chunk_size=1000)])
        return (item["path"] for page in pages for item in page)

    def delete(self, name: str) -> None:
        with contextlib.suppress(*MISSING):
            self._retry(name, lambda: obstore.delete(self._client, name), MISSING)

    def _retry(self, name: str, call: Callable[[], T], final: tuple[type[Exception], ...] = ()) -> T:
        """The result of a call about `name`, made again after most errors; those in `final` are raised as they are."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return call()
            except final:
                raise
            except (exceptions.BaseError, OSError) as error:
                if isinstance(error, FINAL) or attempt == ATTEMPTS:
                    what = f"output {self.url}/{name}: {safe_message(error)}"
                    raise StoreError(what, "run again to resume: nothing is lost") from error
                time.sleep(random.uniform(0, 0.1 * 2**attempt))
        raise AssertionError("unreachable")


Store = LocalStore | ObjectStore
_MEMORY: dict[str, obstore.store.MemoryStore] = {}


def open_client(url: str) -> obstore.store.ObjectStore:
    """An obstore client for an object store URL. Raises InputError for an unknown scheme."""
    scheme = url.partition("://")[0]
    if scheme == "memory":
        return _MEMORY.setdefault(url, obstore.store.MemoryStore())
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT")
    try:
        if scheme == "s3" and (endpoint or "").startswith("http://"):
            return obstore.store.from_url(url, client_options={"timeout": "120s", "allow_http": True})
        return obstore.store.from_url(url, client_options={"timeout": "120s"})
    except (exceptions.BaseError, ValueError) as error:
        raise InputError(f"{url}: {safe_message(error)}") from None


def open_store(url: str) -> Store:
    """The store at a local path, `file://`, `s3://bucket/prefix`, `gs://`, `az://` or `memory://name` (this process only), not
    contacted yet. Credentials and endpoints: each cloud's environment variables. Raises InputError for an unknown scheme."""
    if "://" not in url or url.startswith("file://"):
        return LocalStore(url.removeprefix("file://"))
    return ObjectStore(url, open_client(url))


def delete_all(store: Store, names: Iterable[str]) -> None:
    for name in names:
        store.delete(name)


def probe(store: Store) -> None:
    """Raises StoreError for a store that does not honour put-if-absent."""
    name = f"{SCRATCH}/probe-{uuid.uuid4().hex}"
    try:
        store.put_new(name, b"first")  # False too, where its answer was lost and it was put again
        if store.put_new(name, b"second") or store.get(name) != b"first":
            what = f"output {store.url}: a second put of the same name was not refused"
            raise StoreError(what, "choose a store with conditional PUT (If-None-Match) or hard links")
    finally:
        with contextlib.suppress(StoreError):
            store.delete(name)

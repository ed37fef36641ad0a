"""The output store: put_new / put / get / list / delete, local or in an object store.

`put_new` is the only way in which rows become visible: it writes a whole object under a name that does not exist yet, or answers
Exists and changes nothing. An object store does it by one conditional PUT (never multipart, which is unconditional), a local file
system by a synced temporary file, a hard link and a synced directory. `put` overwrites and is for progress files only.
"""

from __future__ import annotations

import contextlib
import enum
import os
import random
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotFoundError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)

from batchgen.errors import InputError, StoreError, words

if TYPE_CHECKING:
    from obstore.store import ClientConfig, MemoryStore
    from obstore.store import ObjectStore as Client

SCRATCH = "_batchgen/tmp"
T = TypeVar("T")


class Put(enum.Enum):
    CREATED = "created"
    EXISTS = "exists"


class Store(Protocol):
    """What the output is written through. Every method raises StoreError when the store fails."""

    url: str

    def put_new(self, name: str, data: bytes) -> Put:
        """Make `name` visible with exactly `data`, durable, unless it exists."""
        ...

    def put(self, name: str, data: bytes) -> None:
        """Replace `name` as a whole."""
        ...

    def get(self, name: str) -> bytes | None:
        """The object, or None where there is none."""
        ...

    def list(self, prefix: str) -> Iterator[str]:
        """Names under the folder `prefix`, in any order."""
        ...

    def delete(self, name: str) -> None:
        """Remove `name`; no error where there is none."""
        ...


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


class ObjectStore:
    """A prefix of a bucket. An unknown outcome (a lost answer, a 503) is answered by putting again."""

    attempts = 6

    def __init__(self, url: str, client: Client) -> None:
        self.url = url
        self._client = client

    def put_new(self, name: str, data: bytes) -> Put:
        def once() -> Put:
            try:
                obstore.put(self._client, name, data, mode="create", use_multipart=False)
            except (AlreadyExistsError, PreconditionError):
                # S3's 409 comes here too, and says only that another PUT was under way, which may have failed.
                obstore.head(self._client, name)
                return Put.EXISTS
            return Put.CREATED

        return self._retry(name, once)

    def put(self, name: str, data: bytes) -> None:
        self._retry(name, lambda: obstore.put(self._client, name, data, use_multipart=False))

    def get(self, name: str) -> bytes | None:
        def once() -> bytes | None:
            try:
                return bytes(obstore.get(self._client, name).bytes())
            except (NotFoundError, FileNotFoundError):
                return None

        return self._retry(name, once)

    def list(self, prefix: str) -> Iterator[str]:
        def once() -> list[str]:
            return [item["path"] for page in obstore.list(self._client, prefix, chunk_size=1000) for item in page]

        return iter(self._retry(prefix, once))

    def delete(self, name: str) -> None:
        def once() -> None:
            with contextlib.suppress(NotFoundError, FileNotFoundError):
                obstore.delete(self._client, name)

        self._retry(name, once)

    def _retry(self, name: str, call: Callable[[], T]) -> T:
        for attempt in range(self.attempts):
            try:
                return call()
            except (BaseError, OSError) as error:
                final = isinstance(error, PermissionDeniedError | UnauthenticatedError | PermissionError)
                if final or attempt == self.attempts - 1:
                    raise StoreError(
                        f"output {self.url}/{name}: {words(error)}", "run again to resume: nothing is lost"
                    ) from error
                time.sleep(random.uniform(0, 0.2 * 2**attempt))
        raise AssertionError("unreachable")


_MEMORY: dict[str, MemoryStore] = {}


def open_client(url: str) -> Client:
    """An obstore client for an object store URL. Raises InputError for a scheme nobody knows."""
    scheme = url.partition("://")[0]
    if scheme == "memory":
        return _MEMORY.setdefault(url, obstore.store.MemoryStore())
    options: ClientConfig = {"timeout": "120s"}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT")
    if scheme == "s3" and endpoint and endpoint.startswith("http://"):
        options["allow_http"] = True
    try:
        return obstore.store.from_url(url, client_options=options)
    except (BaseError, ValueError) as error:
        raise InputError(f"{url}: {words(error)}") from None


def open_store(url: str) -> Store:
    """The store at a local path, `file://`, `s3://bucket/prefix`, `gs://`, `az://`, or `memory://name` (this process only), which
    is not created or contacted yet. Raises InputError for a scheme nobody knows."""
    if "://" not in url or url.startswith("file://"):
        return LocalStore(url.removeprefix("file://"))
    return ObjectStore(url, open_client(url))


def delete_all(store: Store, names: Iterable[str]) -> None:
    for name in names:
        store.delete(name)


def probe(store: Store) -> None:
    """Refuse a store that does not honour put-if-absent. Raises StoreError."""
    name = f"{SCRATCH}/probe-{uuid.uuid4().hex}"
    try:
        store.put_new(name, b"first")  # Exists too, where its answer was lost and it was put again
        if store.put_new(name, b"second") is not Put.EXISTS or store.get(name) != b"first":
            raise StoreError(
                f"output {store.url}: a second put of the same name was not refused",
                "choose a store with conditional PUT (If-None-Match) or hard links",
            )
    finally:
        with contextlib.suppress(StoreError):
            store.delete(name)

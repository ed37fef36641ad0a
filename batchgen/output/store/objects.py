"""An output under a prefix of a bucket, through obstore."""

import contextlib
import itertools
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar, cast

import obstore
from obstore import exceptions

from batchgen.errors import InputError, StoreError, safe_message

if TYPE_CHECKING:
    from obstore import UpdateVersion

ATTEMPTS = 6  # how often a call to an object store is made at most
DELETED_AT_ONCE = 1000  # keys of one request, S3's most
FINAL = (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError, PermissionError)
"""Errors after which nothing is tried again."""
MISSING = (exceptions.NotFoundError, FileNotFoundError)
T = TypeVar("T")


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

    def swap(self, name: str, old: bytes, new: bytes) -> bool:
        """By If-Match (S3, Azure) or the generation (GCS); a store that has neither compares, and then puts."""

        def swap() -> bool:
            found = obstore.get(self._client, name)
            if (data := bytes(found.bytes())) != old:
                return data == new  # put by an attempt whose answer was lost
            try:
                marks: UpdateVersion = {"e_tag": found.meta["e_tag"], "version": found.meta["version"]}
                known = cast("UpdateVersion", {key: mark for key, mark in marks.items() if mark is not None})
                obstore.put(self._client, name, new, mode=known, use_multipart=False)
            except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
                if (data := bytes(obstore.get(self._client, name).bytes())) == old:
                    raise  # another PUT was under way, which has failed
                return data == new
            except (exceptions.NotSupportedError, exceptions.GenericError, NotImplementedError) as error:
                if isinstance(error, exceptions.GenericError) and "NotImplemented" not in str(error):  # S3's code for it
                    raise
                obstore.put(self._client, name, new, use_multipart=False)
            return True

        with contextlib.suppress(*MISSING):
            return self._retry(name, swap, MISSING)
        return False

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

    def delete_all(self, names: Iterable[str]) -> None:
        left = iter(names)
        while some := list(itertools.islice(left, DELETED_AT_ONCE)):
            try:
                self._retry(some[0], lambda some=some: obstore.delete(self._client, some), MISSING)  # type: ignore[misc]
            except MISSING:
                for name in some:
                    self.delete(name)

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


_MEMORY: dict[str, obstore.store.MemoryStore] = {}


def s3_endpoint() -> str:
    """The address that the environment names in place of Amazon's; "" where it names none."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT") or ""


def open_client(url: str) -> obstore.store.ObjectStore:
    """An obstore client for an object store URL. Raises InputError for an unknown scheme."""
    scheme = url.partition("://")[0]
    if scheme == "memory":
        return _MEMORY.setdefault(url, obstore.store.MemoryStore())
    try:
        if scheme == "s3" and s3_endpoint().startswith("http://"):
            return obstore.store.from_url(url, client_options={"timeout": "120s", "allow_http": True})
        return obstore.store.from_url(url, client_options={"timeout": "120s"})
    except (exceptions.BaseError, ValueError) as error:
        raise InputError(f"{url}: {safe_message(error)}") from None

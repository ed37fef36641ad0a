"""An output in an object store. Credentials and endpoints come from the environment, under each cloud's own variable names."""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

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
from batchgen.output.store.base import Put

if TYPE_CHECKING:
    from obstore.store import ClientConfig, MemoryStore
    from obstore.store import ObjectStore as Client

T = TypeVar("T")


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

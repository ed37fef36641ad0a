"""What an output is written through, whatever is behind it."""

from __future__ import annotations

import contextlib
import enum
import uuid
from collections.abc import Iterable, Iterator
from typing import Protocol

from batchgen.errors import StoreError

SCRATCH = "_batchgen/tmp"


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

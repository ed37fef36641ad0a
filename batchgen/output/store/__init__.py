"""The output store, a local directory or a prefix in an object store.

`put_new` is the only way in which rows become visible: it writes a whole object under a name that does not exist yet, or
changes nothing. An object store does it by one conditional PUT (never multipart, which is unconditional), a local file
system by a synced temporary file, a hard link and a synced directory. `put` overwrites, `swap` does so where nobody else has
written meanwhile; both are for files of the job's state only."""

import contextlib
import uuid
from collections.abc import Iterable

from batchgen.errors import StoreError
from batchgen.output.store.local import SCRATCH, LocalStore
from batchgen.output.store.objects import ObjectStore, open_client, s3_endpoint

__all__ = ["SCRATCH", "LocalStore", "ObjectStore", "Store", "delete_all", "open_client", "open_store", "probe", "s3_endpoint"]
Store = LocalStore | ObjectStore


def open_store(url: str) -> Store:
    """The store at a local path, `file://`, `s3://bucket/prefix`, `gs://`, `az://` or `memory://name` (this process only), not
    contacted yet. Credentials and endpoints: each cloud's environment variables. Raises InputError for an unknown scheme."""
    if "://" not in url or url.startswith("file://"):
        return LocalStore(url.removeprefix("file://"))
    return ObjectStore(url, open_client(url))


def delete_all(store: Store, names: Iterable[str]) -> None:
    store.delete_all(names)


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

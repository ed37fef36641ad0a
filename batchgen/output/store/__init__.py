"""The output store: put_new / put / get / list / delete, local or in an object store.

`put_new` is the only way in which rows become visible. It writes a whole object under a name
that does not exist yet, or answers Exists and changes nothing: on an object store by one
conditional PUT (obstore, `mode="create"`, never multipart, which is unconditional), on a local
file system by a synced temporary file, a hard link and a synced directory. `put` overwrites and
is for progress files only.

URLs: a local path, `s3://bucket/prefix`, `gs://`, `az://`, or `memory://name` (this process only).
Credentials and endpoints come from the environment, under each cloud's own variable names.
"""

from __future__ import annotations

from batchgen.output.store.base import SCRATCH, Put, Store, delete_all, probe
from batchgen.output.store.local import LocalStore
from batchgen.output.store.objects import ObjectStore, open_client

__all__ = ["SCRATCH", "LocalStore", "ObjectStore", "Put", "Store", "delete_all", "open_client", "open_store", "probe"]


def open_store(url: str) -> Store:
    """The store at `url`. Nothing is created or contacted yet."""
    if "://" not in url:
        return LocalStore(url)
    if url.startswith("file://"):
        return LocalStore(url.removeprefix("file://"))
    return ObjectStore(url, open_client(url))

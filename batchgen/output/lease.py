"""`_batchgen/lease.json`: one driver for an output. An economy, not the safety: parts stay right under two drivers.

The holder counts up a number in the file every BEAT_SECONDS. A driver that finds a lease watches it: when the number moves,
another driver is at work; when it stands still for PATIENCE beats, by the watcher's own clock, or when the holder was a process
of this machine and has ended, the lease is taken over. No clocks of two machines are compared."""

import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson

from batchgen.errors import LeaseError, StoreError
from batchgen.output.format import MARK, Fields
from batchgen.output.store import Store

NAME = "_batchgen/lease.json"
BEAT_SECONDS = 5.0
PATIENCE = 6


class Lease:
    """A lease that is held. Beats in a thread of its own until `close`."""

    def __init__(self, store: Store, fields: Fields) -> None:
        self._store, self._fields = store, fields
        self._taken_by: Fields | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises LeaseError when another driver has taken the lease."""
        if self._taken_by is not None:
            raise LeaseError(f"{_who(self._taken_by)} has taken over the output {self._store.url}", "this driver stops")

    def confirm(self) -> None:
        """As check, of the lease as it is in the store now. Raises StoreError too."""
        found = _read(self._store)
        if found is not None and found.get("token") != self._fields["token"]:
            self._taken_by = found
        self.check()

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(StoreError):
            if (_read(self._store) or {}).get("token") == self._fields["token"]:
                self._store.delete(NAME)

    def _beat(self) -> None:
        while self._taken_by is None and not self._ended.wait(BEAT_SECONDS):
            with contextlib.suppress(StoreError, LeaseError):  # parts tell of a store that is down, check of a lost lease
                self.confirm()
                self._fields["beat"] += 1
                self._store.put(NAME, orjson.dumps(self._fields))


@contextlib.contextmanager
def hold(store: Store, message: Callable[[str], None], force: bool = False) -> Iterator[Lease]:
    """Hold the output's lease; `force` takes it from its holder. Raises LeaseError, StoreError."""
    fields = {"token": uuid.uuid4().hex, "beat": 0, "driver": process(os.getpid()), **MARK}
    data = orjson.dumps(fields)
    if not store.put_new(NAME, data):
        if not force:
            _wait_until_free(store, message)
        store.put(NAME, data)
    with contextlib.closing(Lease(store, fields)) as lease:
        yield lease


def _wait_until_free(store: Store, message: Callable[[str], None]) -> None:
    if (first := _read(store)) is None:
        return
    holder, there = first["driver"], process(first["driver"].get("pid"))
    if holder.get("host") == there["host"] and holder.get("started") != there["started"]:
        return  # the holder has ended, even if its number was given again
    message(f"the output has a lease of {_who(first)}: watching it for {BEAT_SECONDS * PATIENCE:.0f} s")
    for _ in range(PATIENCE * 5):
        time.sleep(BEAT_SECONDS / 5)
        if (now := _read(store)) is None:
            return
        if now != first:
            what = f"{_who(now)} is at work on the output {store.url}"
            raise LeaseError(what, "wait for it, or take the output from it with --force")


def _read(store: Store) -> Fields | None:
    """The lease, with an empty driver where it is damaged; None where there is none."""
    if (data := store.get(NAME)) is None:
        return None
    with contextlib.suppress(ValueError, TypeError, AttributeError):
        fields: Fields = orjson.loads(data)
        return fields | {"driver": dict(fields.get("driver", {}))}
    return {"driver": {}}


def _who(fields: Fields) -> str:
    driver = fields["driver"]
    return f"process {driver.get('pid')} on {driver.get('host')}" if driver else "another driver"


def process(number: object) -> Fields:
    """A process of this machine. `host` is the machine since it booted: a host name alone may be that of many.
    `started` is in clock ticks since boot (field 22 of proc_pid_stat(5)), None for a process that is gone."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    host = f"{socket.gethostname()} {boot.read_text().strip()[:8] if boot.exists() else ''}".strip()
    found: Fields = {"host": host, "pid": number, "started": None}
    with contextlib.suppress(OSError, IndexError):
        found["started"] = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[19]
    return found

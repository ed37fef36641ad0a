"""`_batchgen/lease.json`: one driver for an output. An economy, not the safety: parts stay right under two drivers.

The holder counts up a number in the file every BEAT_SECONDS. A driver that finds a lease watches it: when the number moves,
another driver is at work; when it stands still for PATIENCE beats, by the watcher's own clock, or when the holder was a process
of this machine and has ended, the lease is taken over. No clocks of two machines are compared. The file is written only where it
still is what was read (Store.swap), so that of two drivers who take it one fails."""

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

    def __init__(self, store: Store, fields: Fields, data: bytes) -> None:
        self._store, self._fields, self._data = store, fields, data
        self._taken_by: Fields | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises LeaseError when another driver has taken the lease."""
        if self._taken_by is not None:
            raise LeaseError(f"{_who(self._taken_by)} has taken over the output {self._store.url}", "this driver stops")

    def confirm(self) -> None:
        """As check, of the lease as it is in the store now: one that is gone is not this driver's. Raises StoreError too."""
        found = _parse(self._store.get(NAME))
        if found.get("token") != self._fields["token"]:
            self._taken_by = found
        self.check()

    def put(self, name: str, data: bytes) -> None:
        """Write a file of the job's state (progress, report, _SUCCESS). A driver that stood still while another took over changes
        nothing: its lease is confirmed after the file was read, and the file must still be the same. Raises LeaseError and
        StoreError."""
        before = self._store.get(name)
        self.confirm()
        written = self._store.put_new(name, data) if before is None else self._store.swap(name, before, data)
        if not written and self._store.get(name) != data:  # the same, where the answer to its put was lost
            raise LeaseError(f"{self._store.url}/{name}: another driver has written it meanwhile", "this driver stops")

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(StoreError, LeaseError):
            self._renew()
            self._store.delete(NAME)

    def _beat(self) -> None:
        while self._taken_by is None and not self._ended.wait(BEAT_SECONDS):
            with contextlib.suppress(StoreError, LeaseError):  # parts tell of a store that is down, check of a lost lease
                self._renew()

    def _renew(self) -> None:
        self._fields["beat"] += 1
        data = orjson.dumps(self._fields)
        if not self._store.swap(NAME, self._data, data):
            self.confirm()
            data = self._store.get(NAME) or b""  # this driver's, of a beat whose answer was lost
        self._data = data


@contextlib.contextmanager
def hold(store: Store, message: Callable[[str], None], force: bool = False) -> Iterator[Lease]:
    """Hold the output's lease; `force` takes it from its holder. Raises LeaseError, StoreError."""
    fields = {"token": uuid.uuid4().hex, "beat": 0, "driver": process(os.getpid()), **MARK}
    data = orjson.dumps(fields)
    while not store.put_new(NAME, data):
        there = store.get(NAME)
        if there is not None and there != data and not force:
            there = _when_free(store, there, message)
        if there is not None and (there == data or store.swap(NAME, there, data)):
            break
    with contextlib.closing(Lease(store, fields, data)) as lease:
        yield lease


def _when_free(store: Store, first: bytes, message: Callable[[str], None]) -> bytes | None:
    """The lease that may be taken over, None where it was given back. Raises LeaseError where its holder is at work."""
    holder = _parse(first)
    if has_ended(holder["driver"]):
        return first
    message(f"the output has a lease of {_who(holder)}: watching it for {BEAT_SECONDS * PATIENCE:.0f} s")
    for _ in range(PATIENCE * 5):
        time.sleep(BEAT_SECONDS / 5)
        if (now := store.get(NAME)) is None:
            return None
        if now != first:
            what = f"{_who(_parse(now))} is at work on the output {store.url}"
            raise LeaseError(what, "wait for it, or take the output from it with --force")
    return first


def _parse(data: bytes | None) -> Fields:
    """A lease, with an empty driver where it is damaged or not there."""
    with contextlib.suppress(ValueError, TypeError, AttributeError):
        fields: Fields = orjson.loads(data or b"")
        return fields | {"driver": dict(fields.get("driver", {}))}
    return {"driver": {}}


def _who(fields: Fields) -> str:
    driver = fields["driver"]
    return f"process {driver.get('pid')} on {driver.get('host')}"[:200] if driver else "another driver"


def process(number: object) -> Fields:
    """A process of this machine. `host` is the machine, `boot` since when: a host name alone may be that of many. `space` is the
    pid namespace, in which alone a process has this number; `started` is in clock ticks since boot (field 22 of
    proc_pid_stat(5)), None for a process that is gone."""
    found: Fields = {"host": socket.gethostname(), "boot": None, "space": None, "pid": number, "started": None}
    with contextlib.suppress(OSError):
        found["boot"] = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        found["space"] = os.readlink("/proc/self/ns/pid")
    with contextlib.suppress(OSError, IndexError):
        if isinstance(number, int):
            found["started"] = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[19]
    return found


def has_ended(driver: Fields) -> bool:
    """Whether a driver was a process of this machine, in this pid namespace, and is gone, even if its number was given again."""
    there = process(driver.get("pid"))
    here = all(driver.get(name) == there[name] is not None for name in ("host", "boot", "space"))
    return here and driver.get("started") != there["started"]

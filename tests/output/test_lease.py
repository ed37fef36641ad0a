"""lease.py: one driver for an output, and what happens to the second."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from batchgen.errors import RUN_ERROR, LeaseError
from batchgen.output import lease
from batchgen.output.lease import NAME
from batchgen.output.store import Store, open_store
from tests.support.finished import Finished


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.05)


@pytest.fixture
def store() -> Store:
    return open_store(f"memory://{uuid.uuid4().hex}")


def quiet(_: str) -> None: ...


def watching(monkeypatch: pytest.MonkeyPatch, look: Callable[[], object]) -> None:
    """Between two looks of who watches a lease this happens, however long it takes."""
    monkeypatch.setattr(lease, "time", SimpleNamespace(sleep=lambda _: look()))


def until(happened: Callable[[], bool]) -> None:
    while not happened():
        time.sleep(0.01)


def holder(store: Store) -> dict[str, Any]:
    data = store.get(NAME)
    assert data is not None
    return orjson.loads(data)  # type: ignore[no-any-return]


def foreign(store: Store, host: str = "elsewhere", pid: int = 1, started: str = "1") -> dict[str, object]:
    fields = {"token": "theirs", "beat": 0, "driver": {"host": host, "pid": pid, "started": started}}
    store.put(NAME, orjson.dumps(fields))
    return fields


def test_the_lease_is_there_while_it_is_held_and_beats(store: Store) -> None:
    with lease.hold(store, quiet) as held:
        first = holder(store)["beat"]
        until(lambda: holder(store)["beat"] != first)
        held.check()
    assert store.get(NAME) is None


def test_a_lease_that_was_taken_is_noticed_between_two_beats_by_who_asks_the_store(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 3600.0)
    with lease.hold(store, quiet) as held:
        held.confirm()
        foreign(store)
        held.check()
        with pytest.raises(LeaseError, match="process 1 on elsewhere has taken over"):
            held.confirm()


def test_a_second_driver_is_refused_by_name_while_the_first_one_beats(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def a_beat() -> None:
        before = holder(store)
        until(lambda: holder(store) != before)

    watching(monkeypatch, a_beat)
    with lease.hold(store, quiet), pytest.raises(LeaseError, match=f"process {os.getpid()} on .* is at work") as refused:
        lease.hold(store, quiet).__enter__()
    assert refused.value.exit_code == RUN_ERROR
    assert "--force" in str(refused.value)
    assert store.get(NAME) is None


def test_a_lease_that_stands_still_is_taken_after_a_while_and_says_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[None] = []
    watching(monkeypatch, lambda: looks.append(None))
    foreign(store)
    told: list[str] = []
    with lease.hold(store, told.append) as held:
        held.check()
        assert holder(store)["token"] != "theirs"
    assert ["process 1 on elsewhere" in text for text in told] == [True]
    assert len(looks) > lease.PATIENCE


@pytest.fixture
def left_behind(tmp_path: Path) -> Store:
    """An output whose driver, a process of this machine, ended without giving its lease back."""
    script = "import os, sys\nfrom batchgen.output import lease\nfrom batchgen.output.store import open_store\n"
    script += "held = lease.hold(open_store(sys.argv[1]), print)\nheld.__enter__()\nos._exit(0)"
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    return open_store(str(tmp_path))


def test_a_lease_of_a_process_of_this_machine_that_is_gone_is_taken_at_once(left_behind: Store) -> None:
    before, told = holder(left_behind), list[str]()
    with lease.hold(left_behind, told.append):
        assert holder(left_behind)["token"] != before["token"]
    assert told == []


def test_a_number_that_another_process_has_by_now_is_not_the_holder(left_behind: Store) -> None:
    fields = holder(left_behind)
    fields["driver"]["pid"] = os.getpid()
    left_behind.put(NAME, orjson.dumps(fields))
    told: list[str] = []
    with lease.hold(left_behind, told.append):
        assert holder(left_behind)["token"] != fields["token"]
    assert told == []


def until_lost(held: lease.Lease) -> str:
    """Waits until a driver learns that it has lost its lease; what it says then."""
    while True:
        try:
            held.check()
        except LeaseError as error:
            return str(error)
        time.sleep(0.01)


def test_force_takes_the_lease_and_the_first_driver_learns_of_it(store: Store) -> None:
    with lease.hold(store, quiet) as first, lease.hold(store, quiet, force=True) as second:
        assert "has taken over" in until_lost(first)
        second.check()
    assert store.get(NAME) is None


def test_the_end_of_one_who_lost_the_lease_leaves_it_to_the_other(store: Store) -> None:
    with lease.hold(store, quiet) as held:
        theirs = foreign(store)
        until_lost(held)
    assert holder(store) == theirs


def test_a_damaged_lease_is_taken_when_it_stands_still(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    watching(monkeypatch, lambda: None)
    store.put(NAME, b"{")
    with lease.hold(store, quiet) as held:
        held.check()
        assert "token" in holder(store)


def test_a_lease_given_back_while_it_is_watched_is_free(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign(store)
    watching(monkeypatch, lambda: store.delete(NAME))
    with lease.hold(store, quiet) as held:
        held.check()
        assert holder(store)["token"] != "theirs"


def test_a_lease_that_is_gone_is_not_ones_own_any_more(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 3600.0)
    with lease.hold(store, quiet) as held:
        store.delete(NAME)
        with pytest.raises(LeaseError, match="another driver has taken over"):
            held.confirm()
    assert store.get(NAME) is None


@pytest.mark.parametrize("changes", [{"boot": "another"}, {"space": "pid:[1]"}, {"space": None}, {"host": "another"}])
def test_a_process_of_another_boot_or_namespace_is_watched_though_its_number_is_free(
    left_behind: Store, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str | None]
) -> None:
    fields = holder(left_behind)
    fields["driver"] |= changes
    left_behind.put(NAME, orjson.dumps(fields))
    watching(monkeypatch, lambda: None)
    told: list[str] = []
    with lease.hold(left_behind, told.append):
        assert len(told) == 1


def test_of_two_drivers_that_find_a_lease_free_one_takes_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 3600.0)
    foreign(store)
    others: list[Any] = []

    def other_first(there: Store, first: bytes, message: Any) -> bytes:
        monkeypatch.undo()
        monkeypatch.setattr(lease, "time", SimpleNamespace(sleep=lambda _: theirs._renew()))
        held = lease.hold(there, quiet, force=True)
        theirs = held.__enter__()
        others[:] = [held, theirs]
        return first

    monkeypatch.setattr(lease, "_when_free", other_first)
    with pytest.raises(LeaseError, match="is at work on the output"):
        lease.hold(store, quiet).__enter__()
    others[1].confirm()
    others[1].close()


class Slow:
    """A store whose driver is stopped just before it writes, while something else happens."""

    def __init__(self, store: Store, happens: Callable[[], object]) -> None:
        self._store, self._happens = store, happens

    def swap(self, name: str, old: bytes, new: bytes) -> bool:
        self._happens()
        return self._store.swap(name, old, new)

    def put_new(self, name: str, data: bytes) -> bool:
        self._happens()
        return self._store.put_new(name, data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


@pytest.mark.parametrize("before", [None, b"running"])
def test_a_driver_that_stood_still_changes_no_file_of_a_job_that_another_finished(
    store: Store, monkeypatch: pytest.MonkeyPatch, before: bytes | None
) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 3600.0)
    if before is not None:
        store.put("_batchgen/progress.json", before)
    with lease.hold(store, quiet) as held:

        def another() -> None:
            with lease.hold(store, quiet, force=True) as theirs:
                theirs.put("_batchgen/progress.json", b"done")

        held._store = Slow(store, another)  # type: ignore[assignment]
        with pytest.raises(LeaseError, match=r"progress\.json: another driver has written it meanwhile"):
            held.put("_batchgen/progress.json", b"running still")
        held._store = store
        with pytest.raises(LeaseError):
            held.put("_batchgen/report.json", b"{}")
    assert (store.get("_batchgen/progress.json"), store.get("_batchgen/report.json")) == (b"done", None)


def test_a_holder_writes_the_files_of_its_job(store: Store) -> None:
    with lease.hold(store, quiet) as held:
        for data in (b"1", b"2", b"2"):
            held.put("_batchgen/progress.json", data)
            assert store.get("_batchgen/progress.json") == data


def test_retry_plans_under_the_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = Finished(tmp_path)
    with lease.hold(output.store, quiet) as held:
        watching(monkeypatch, held._renew)
        with pytest.raises(LeaseError, match="is at work on the output"):
            output.retry()
    assert len(list(output.store.list("_batchgen/plan"))) == 1
    assert output.retry() == 12

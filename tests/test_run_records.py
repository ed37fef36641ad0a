"""The page of run.py with a replica in this process in place of a cluster: what it records, and what it leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import batchgen
from batchgen import Output
from batchgen.cluster import connect, driver
from batchgen.cluster.monitor import Monitor
from batchgen.errors import LeaseError
from batchgen.output import lease, parts, progress
from batchgen.output.plan_file import SUCCESS
from batchgen.output.store import LocalStore, delete_all
from batchgen.output.trust import manifest
from batchgen.read import reader
from batchgen.records import Span
from batchgen.render.blocks import encode_block, encode_span
from batchgen.replica import journal
from batchgen.replica.replica import Replica

ROWS = 10


def happens(number: int, here: Any) -> None:
    """What befalls the driver after a span."""


class Here:
    """The driver's Run, with one replica. `happens` is called after each span, with its number from 1."""

    def __init__(self, *arguments: Any, types: Any, owns_ray: bool) -> None:
        self.job, self.renderer, self.kept, self.store, self.plan, self.monitor, self.held, _stopping = arguments

    def execute(self, missing: list[Span]) -> None:
        async def work() -> None:
            replica = Replica(self.renderer, self.store.url, [s.name for s in self.plan.shards], journal.spans(self.store))
            await replica.start()
            for number, span in enumerate(missing, 1):
                shard = self.plan.shards[span.shard]
                [(_, rows, kept)] = reader.read_spans(self.job, shard, [span], self.kept, self.renderer.needed)
                prompts = encode_span(self.renderer, shard.name, rows, span.again)
                self.monitor.receipt(await replica.run(encode_block(span, prompts, kept)))
                happens(number, self)
                self.held.check()
                self.monitor.tick(1)
            await replica.stop()

        asyncio.run(work())


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(driver, "Run", Here)
    monkeypatch.setattr(connect, "connected", lambda *_: contextlib.nullcontext())
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"prompt": f"row {n}"}) + "\n" for n in range(ROWS)))
    return {
        "input": {"path": str(tmp_path / "in.jsonl"), "prompt": "prompt"},
        "engine": {"kind": "echo"},
        "spans": {"rows": 2},
        "output": {"path": str(tmp_path / "out")},
    }


def run(job: dict[str, Any], **options: Any) -> str:
    out = io.StringIO()
    batchgen.run(job, out=out, **options)
    return out.getvalue()


def then(monkeypatch: pytest.MonkeyPatch, at: int, act: Callable[[Any], object]) -> None:
    monkeypatch.setitem(globals(), "happens", lambda number, here: number == at and act(here))


def raises(error: BaseException) -> Callable[[Any], None]:
    def act(_: Any) -> None:
        raise error

    return act


def recorded(job: dict[str, Any]) -> tuple[int, int, int]:
    verdict = Output.open(job["output"]["path"]).verify()
    assert verdict.problems == []
    return verdict.parts, verdict.recorded, verdict.recorded_later


def test_a_run_records_every_part_and_seals_what_it_has_made(job: dict[str, Any], tmp_path: Path) -> None:
    said = run(job)
    assert recorded(job) == (5, 5, 0)
    assert len([line for line in said.splitlines() if " job: 10/10 rows" in line]) == 1
    names = set(LocalStore(tmp_path / "out").list("")) - {
        parts.part_name(s.name) for s in Output.open(str(tmp_path / "out")).plan.spans
    }
    files = {"job.json", "progress.json", "report.json", "plan/000000.plan", "manifest/000000.json"}
    assert names == {SUCCESS, "README.md", *(f"_batchgen/{name}" for name in files)}


def test_what_was_made_before_an_interruption_is_recorded(job: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    then(monkeypatch, 2, raises(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        run(job)
    output = Output.open(job["output"]["path"])
    assert (len(manifest.load(output.store).digests), output.status()["state"]) == (2, "interrupted")
    assert output.verify().unfinished
    monkeypatch.undo()
    monkeypatch.setattr(driver, "Run", Here)
    monkeypatch.setattr(connect, "connected", lambda *_: contextlib.nullcontext())
    run(job)
    assert recorded(job) == (5, 5, 0)


def test_what_a_kill_left_without_an_entry_is_recorded_later(job: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Monitor, "record", lambda self: None)
        then(patch, 2, raises(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            run(job)
    assert manifest.load(Output.open(job["output"]["path"]).store).digests == {}
    run(job)
    assert recorded(job) == (5, 5, 2)


def test_a_finished_output_of_an_earlier_release_stays_as_it_is(job: dict[str, Any], tmp_path: Path) -> None:
    run(job)
    store = LocalStore(tmp_path / "out")
    fields = json.loads(store.get("_batchgen/job.json") or b"")
    del fields["manifest"], fields["digest"]
    store.put("_batchgen/job.json", json.dumps(fields | {"digest": manifest.fingerprint(fields)}).encode())
    delete_all(store, list(store.list(manifest.FOLDER)))
    store.put(SUCCESS, b"")
    assert recorded(job) == (5, 0, 0)
    run(job)
    assert (recorded(job), store.get(SUCCESS)) == ((5, 0, 0), b"")
    with open(tmp_path / "in.jsonl", "a") as file:
        file.write('{"prompt": "more"}\n')
    run(job)
    assert recorded(job) == (6, 6, 5)


def test_a_grown_input_is_sealed_anew(job: dict[str, Any], tmp_path: Path) -> None:
    run(job)
    before = LocalStore(tmp_path / "out").get(SUCCESS)
    with open(tmp_path / "in.jsonl", "a") as file:
        file.write('{"prompt": "more"}\n')
    run(job)
    assert LocalStore(tmp_path / "out").get(SUCCESS) != before
    assert recorded(job) == (6, 6, 0)


def test_a_driver_that_stood_still_leaves_the_state_to_the_one_that_finished(
    job: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(tmp_path / "out")
    after: dict[str, bytes | None] = {}

    def another_finishes(_: Any) -> None:
        monkeypatch.setitem(globals(), "happens", lambda number, here: None)
        batchgen.run(job, out=io.StringIO(), force=True)
        after.update({name: store.get(name) for name in store.list("")})

    monkeypatch.setattr(lease, "BEAT_SECONDS", 3600.0)
    monkeypatch.setattr("batchgen.cluster.monitor.WRITE_SECONDS", 0.0)
    monkeypatch.setitem(globals(), "happens", lambda number, here: asyncio_apart(another_finishes) if number == 2 else None)
    with pytest.raises(LeaseError):
        run(job)
    assert after
    assert {name: store.get(name) for name in store.list("")} == after
    assert json.loads(store.get(progress.PROGRESS) or b"")["state"] == "done"
    assert recorded(job)[0] == 5


def asyncio_apart(act: Callable[[Any], None]) -> None:
    """Call something that runs a loop of its own from within a loop."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        pool.submit(act, None).result()

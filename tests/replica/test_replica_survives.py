"""The replica when things go wrong: poison, lost replicas, rows that the job wants tried again."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from batchgen.engines.base import Request
from batchgen.errors import OVER_LIMIT, BadRow, EngineError, TooManyErrors
from batchgen.prepare import Prepared
from batchgen.records import Answer, Receipt
from batchgen.replica import journal
from batchgen.replica.replica import Replica
from tests.support import clock
from tests.support.replicas import PATIENCE, Backwards, blocks, part_bytes, prepared, ran, replica


def job(folder: Path, prompts: list[str], options: dict[str, Any] | None = None, **fields: Any) -> Prepared:
    engine = {"kind": "echo", "options": {"latency": 0.001, "max_num_seqs": 8, **(options or {})}}
    return prepared(folder, [{"prompt": prompt} for prompt in prompts], **{"engine": engine, "spans": {"rows": 1000}, **fields})


def part(made: Prepared, receipt: Receipt) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(io.BytesIO(part_bytes(made, receipt))).to_pylist()
    return rows


# Poison


def test_a_poisonous_row_is_the_only_one_that_fails(tmp_path: Path) -> None:
    made = job(tmp_path, [f"row {n}" for n in range(60)] + ["a poison"] + ["end"], {"die_on": "poison"})
    receipt = ran(replica(made), blocks(made)[0])
    rows = part(made, receipt)
    assert [row["error_code"] for row in rows] == [None] * 60 + ["engine_crash", None]
    assert rows[60]["error_detail"] == (
        f"{tmp_path}/in.jsonl:61: the engine died of this prompt, and again when the prompt was alone in it"
    )
    assert 2 <= receipt.restarts <= 5
    assert receipt.errors == {"engine_crash": 1}


def test_a_frozen_engine_is_started_again_and_what_froze_it_is_found(tmp_path: Path) -> None:
    made = job(tmp_path, ["a", "the ice", "b"], engine={"kind": "echo", "options": {"freeze_on": "ice"}, "watchdog_seconds": 0.3})
    rows = part(made, ran(replica(made), blocks(made)[0], run=clock.run))
    assert [row["error_code"] for row in rows] == [None, "engine_crash", None]


def test_a_row_that_never_ends_is_cut_by_its_deadline(tmp_path: Path) -> None:
    made = job(tmp_path, ["a", "stuck", "b"], {"hang_on": "stuck"}, limits={"row_seconds": 0.5})
    rows = part(made, ran(replica(made), blocks(made)[0], run=clock.run))
    assert [row["error_code"] for row in rows] == [None, "timeout", None]
    assert rows[1]["error_detail"] == f"{tmp_path}/in.jsonl:2: no answer within limits.row_seconds (0.5)"


# The journal


class Gate(Backwards):
    """Answers prompts with `fast` in them at once, and the others when `opened`; counts what it was asked."""

    def __init__(self) -> None:
        super().__init__(64)
        self.opened = asyncio.Event()
        self.asked: list[str] = []

    async def generate(self, request: Request) -> list[Answer]:
        text = " ".join(bytes(request.token_ids).decode().split()[1:3])
        self.asked.append(text)
        if "fast" not in text:
            await self.opened.wait()
        return [Answer(f"answer to {text}", 1, "stop")]


def killed_after_a_journal(worker: Replica, made: Prepared) -> None:
    """Run a span until a journal file is there, and then no further."""

    async def scenario() -> None:
        await worker.start()
        running = asyncio.create_task(worker.run(blocks(made)[0]))
        while not journal.spans(worker.store):
            await asyncio.sleep(0.01)
        running.cancel()

    clock.run(asyncio.wait_for(scenario(), PATIENCE))


@pytest.mark.parametrize("known", ["by the driver's listing", "by the death of another replica"])
def test_a_killed_replica_costs_unfinished_rows_only(tmp_path: Path, known: str) -> None:
    prompts = [f"{'slow' if n % 20 == 0 else 'fast'} {n}" for n in range(200)]
    made = job(tmp_path, prompts, spans={"rows": 200, "journal_seconds": 0.05})
    first, second = Gate(), Gate()
    killed_after_a_journal(replica(made, first), made)
    second.opened.set()
    listed = journal.spans(replica(made).store) if known.startswith("by the driver") else ()
    receipt = ran(replica(made, second, listed), blocks(made)[0], again=not listed)
    assert len(first.asked) == 200
    assert second.asked == [prompt for prompt in prompts if prompt.startswith("slow")]
    assert receipt.from_journal == 190
    rows = part(made, receipt)
    assert [row["row"] for row in rows] == list(range(200))
    assert [row["response"] for row in rows] == [f"answer to {prompt}" for prompt in prompts]
    assert journal.spans(replica(made).store) == set(), "a committed span needs no journal"


def test_a_replica_that_is_stopped_or_given_up_leaves_its_finished_rows_in_the_journal(tmp_path: Path) -> None:
    class Broken(Gate):
        async def generate(self, request: Request) -> list[Answer]:
            if b"slow" in bytes(request.token_ids):
                await asyncio.sleep(0.2)
                raise EngineError("gone")
            return await super().generate(request)

    made = job(tmp_path, ["fast 1", "slow 2", "fast 3"])
    with pytest.raises(EngineError, match="gone"):
        ran(replica(made, Broken()), blocks(made)[0])
    [span] = journal.spans(replica(made).store)
    assert sorted(journal.load(replica(made).store, span)[0]) == [0, 2]

    engine = Gate()

    async def stopped() -> None:
        worker = replica(made, engine)
        await worker.start()
        running = asyncio.create_task(worker.run(blocks(made)[0]))
        while len(engine.asked) < 3:
            await asyncio.sleep(0.01)
        await worker.stop()
        running.cancel()

    (tmp_path / "out").rename(tmp_path / "before")
    clock.run(asyncio.wait_for(stopped(), PATIENCE))
    assert sorted(journal.load(replica(made).store, span)[0]) == [0, 2]


def test_a_draining_replica_keeps_a_close_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchgen.replica.replica.DRAIN_JOURNAL_SECONDS", 0.05)
    made = job(tmp_path, ["fast", "slow"], spans={"rows": 10, "journal_seconds": 3600})

    async def scenario() -> list[int]:
        worker = replica(made, Gate())
        await worker.start()
        running = asyncio.create_task(worker.run(blocks(made)[0]))
        await worker.drain()
        while not (spans := journal.spans(worker.store)):
            await asyncio.sleep(0.01)
        running.cancel()
        return sorted(journal.load(worker.store, *spans)[0])

    assert clock.run(asyncio.wait_for(scenario(), PATIENCE)) == [0]


# What the job does about a failure


class Moody(Backwards):
    """Fails a prompt with its own text as error code as long as `times` says; remembers what it was asked with."""

    def __init__(self, times: int) -> None:
        super().__init__(64)
        self.times = times
        self.asked: dict[str, list[dict[str, Any]]] = {}

    async def generate(self, request: Request) -> list[Answer]:
        text = bytes(request.token_ids).decode().split()[1]
        before = self.asked.setdefault(text, [])
        before.append(request.sampling)
        if text in ("timeout", "engine_rejected") and len(before) <= self.times:
            raise BadRow(text, "moody")  # type: ignore[arg-type]
        cut = text == "truncated" and len(before) <= self.times
        return [Answer(f"{text} {number}", 1, "length" if cut else "stop") for number in range(request.sampling.n)]


def moody(folder: Path, errors: dict[str, Any], times: int, **fields: Any) -> tuple[list[dict[str, Any]], Moody]:
    made = job(folder, ["timeout", "truncated", "engine_rejected", "fine"], errors=errors, **fields)
    engine = Moody(times)
    return part(made, ran(replica(made, engine), blocks(made)[0])), engine


def test_without_a_policy_failures_are_kept_after_one_attempt(tmp_path: Path) -> None:
    rows, engine = moody(tmp_path, {}, 1)
    assert [row["error_code"] for row in rows] == ["timeout", None, "engine_rejected", None]
    assert [row["finish_reason"] for row in rows] == [None, "length", None, "stop"]
    assert {len(asked) for asked in engine.asked.values()} == {1}


def test_a_class_is_tried_again_as_often_as_its_policy_says_and_with_what_it_changes(tmp_path: Path) -> None:
    errors = {"timeout": {"retry": 2, "sampling": {"max_tokens": 7}}, "truncated": {"retry": 1}}
    rows, engine = moody(tmp_path, errors, 1)
    assert [row["error_code"] for row in rows] == [None, None, "engine_rejected", None]
    assert [row["attempt"] for row in rows] == [2, 2, 1, 1]
    assert [row["response"] for row in rows] == ["timeout 0", "truncated 0", None, "fine 0"]
    assert rows[0]["sampling"]["max_tokens"] == 7
    assert rows[0]["sampling"]["seed"] == engine.asked["timeout"][0].seed, "the error's cause was not the seed"
    assert rows[1]["sampling"]["seed"] == engine.asked["truncated"][1].seed != engine.asked["truncated"][0].seed


def test_a_failure_that_stays_is_kept_after_its_last_attempt(tmp_path: Path) -> None:
    rows, engine = moody(tmp_path, {"timeout": {"retry": 2}, "truncated": {"retry": 1}}, 9)
    assert (rows[0]["error_code"], rows[0]["attempt"], len(engine.asked["timeout"])) == ("timeout", 3, 3)
    assert (rows[1]["finish_reason"], rows[1]["attempt"], len(engine.asked["truncated"])) == ("length", 2, 2)


def test_each_sample_of_a_failed_prompt_is_tried_again_with_its_own_seed(tmp_path: Path) -> None:
    rows, engine = moody(tmp_path, {"timeout": {"retry": 1}}, 1, sampling={"n": 3})
    tried = engine.asked["timeout"]
    assert [asked.n for asked in tried] == [3, 1, 1, 1]
    assert sorted(asked.seed - tried[0].seed for asked in tried[1:]) == [0, 1, 2]
    assert [(row["status"], row["attempt"], row["sample"]) for row in rows[:3]] == [("ok", 2, n) for n in range(3)]


def test_fail_stops_the_job_with_the_row(tmp_path: Path) -> None:
    with pytest.raises(TooManyErrors, match=r"in\.jsonl:1: moody; errors\.timeout is fail") as stopped:
        moody(tmp_path, {"timeout": "fail"}, 1)
    assert stopped.value.exit_code == OVER_LIMIT
    with pytest.raises(TooManyErrors, match=r"truncated: .*in\.jsonl:2: cut at max_tokens"):
        moody(tmp_path, {"truncated": "fail"}, 1)

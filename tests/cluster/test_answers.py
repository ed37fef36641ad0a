"""Answers that the replicas of a run share: who generates, who waits, what happens where one dies."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import ray

import batchgen
from batchgen.cluster import answers
from batchgen.cluster.answers import Elsewhere, Ledger
from batchgen.job.sampling import Sampling, check_sampling
from batchgen.records import Answer
from batchgen.tasks.dedupe import Shared

GREEDY = check_sampling({"temperature": 0})
A, B = b"a" * 32, b"b" * 32


def test_the_first_generates_and_the_others_get_what_it_has() -> None:
    ledger = Ledger()
    assert ledger.exchange(1, {}, [A]) == {A: None}, "it is to generate"
    assert ledger.exchange(2, {}, [A, B]) == {B: None}, "the other is at it"
    assert ledger.exchange(1, {A: b"text"}, []) == {}
    assert ledger.exchange(2, {}, [A]) == {A: b"text"}
    assert ledger.exchange(3, {B: b"another"}, [B]) == {B: b"another"}, "an answer counts, whoever was to make it"
    assert ledger.exchange(2, {B: b"late"}, []) == {}
    assert ledger.exchange(3, {}, [A, B]) == {A: b"text", B: b"another"}


def test_a_request_that_failed_is_the_next_ones() -> None:
    ledger = Ledger()
    ledger.exchange(1, {}, [A])
    assert ledger.exchange(1, {A: None}, []) == {}
    assert ledger.exchange(2, {}, [A]) == {A: None}
    assert ledger.exchange(1, {A: None}, [A]) == {}, "what it says of another's claim does not end that"


def test_a_replica_that_is_not_heard_of_loses_its_claims() -> None:
    now = [0.0]
    ledger = Ledger(silent_seconds=60, clock=lambda: now[0])
    ledger.exchange(1, {}, [A])
    now[0] = 50.0
    ledger.exchange(1, {}, [])
    now[0] = 110.0
    assert ledger.exchange(2, {}, [A]) == {}
    now[0] = 110.5
    assert ledger.exchange(2, {}, [A]) == {A: None}
    assert ledger.exchange(1, {A: b"late"}, []) == {}
    assert ledger.exchange(2, {}, [A]) == {A: b"late"}
    ledger.exchange(1, {}, [B])
    ledger.forget(1)
    assert ledger.exchange(2, {}, [B]) == {B: None}, "the driver knows that it ended"


class Engine:
    def __init__(self, name: str) -> None:
        self.name, self.calls = name, 0
        self.may = asyncio.Event()

    async def __call__(self, ids: list[int], sampling: Sampling, priority: int, images: Sequence[str]) -> list[Answer]:
        self.calls += 1
        await self.may.wait()
        if self.name == "broken":
            raise ValueError(self.name)
        return [Answer(self.name, 3, "stop")]


@pytest.fixture
def ledger() -> Any:
    return answers.begin()


async def soon(task: asyncio.Task[Any]) -> Any:
    return await asyncio.wait_for(asyncio.shield(task), 60)


@pytest.mark.cluster
def test_replicas_wait_for_one_another_and_go_on_alone(ledger: Any) -> None:
    async def scenario() -> None:
        engines = [Engine("broken"), Engine("two"), Engine("three")]
        shared = [Shared(engine, elsewhere=Elsewhere(ledger, number)) for number, engine in enumerate(engines)]

        def ask(number: int, token: int = 1) -> asyncio.Task[list[Answer]]:
            return asyncio.create_task(shared[number].generate([token], GREEDY, 0, ()))

        async def until_called(engine: Engine, calls: int = 1) -> None:
            while engine.calls < calls:
                await asyncio.sleep(0.01)

        first = ask(0)
        await until_called(engines[0])
        second = ask(1)
        await asyncio.sleep(2 * answers.ASK_SECONDS)
        assert engines[1].calls == 0, "the first is at it"
        engines[0].may.set()
        with pytest.raises(ValueError, match="broken"):
            await soon(first)
        await asyncio.wait_for(until_called(engines[1]), 60)  # the first failed
        third = ask(2)
        engines[1].may.set()
        [two], [three] = await soon(second), await soon(third)
        assert (two.text, two.copied, three.text, three.copied, engines[2].calls) == ("two", False, "two", True, 0)

        held = ask(2, token=2)
        await until_called(engines[2])
        held.cancel()  # whoever asked for it has gone: another may have it
        [other] = await soon(ask(1, token=2))
        assert (other.text, engines[1].calls) == ("two", 2)

        ray.kill(ledger)
        [alone] = await soon(ask(1, token=3))
        engines[2].may.set()
        [also] = await soon(ask(2, token=3))
        assert (alone.text, also.text) == ("two", "three"), "without the ledger each generates its own"

    asyncio.run(scenario())


def run(folder: Path, rows: int, kinds: int, replicas: int, **options: Any) -> tuple[list[dict[str, Any]], dict[str, Any], int]:
    """The rows of a job over so many kinds of prompt, its status, and how many answers were generated."""
    lines = [{"prompt": f"kind {n % kinds}", "n": n} for n in range(rows)]
    if "kill_on" in options:
        lines[rows // 2]["prompt"] = options["kill_on"]
    (folder / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    meter, out = folder / "meter", io.StringIO()
    status = batchgen.run(
        {
            "input": {"path": str(folder / "in.jsonl"), "prompt": "prompt"},
            "engine": {"kind": "echo", "options": {"meter": str(meter), "max_num_seqs": 4, "latency": 0.05, **options}},
            "sampling": {"temperature": 1.0, "seed": 5},
            "dedupe": True,
            "replicas": {"max": replicas, "resources": {"CPU": 0.2}},
            "spans": {"rows": 10},
            "output": {"path": str(folder / "out")},
        },
        out=out,
    )
    found = [row for path in sorted((folder / "out/data").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    return sorted(found, key=lambda row: int(row["n"])), status, meter.stat().st_size


@pytest.mark.cluster
def test_equal_rows_of_several_replicas_are_generated_once(tmp_path: Path) -> None:
    found, status, generated = run(tmp_path, 400, 40, 3)
    assert (status["rows_ok"], generated) == (400, 40)
    assert status["deduplicated"] >= 360, "more where a span ran twice and its copies were first"
    assert len({(row["prompt"], row["response"]) for row in found}) == 40
    assert len({row["response"] for row in found}) > 30, "other prompts, other answers"


@pytest.mark.cluster
def test_what_a_replica_had_in_hand_when_it_died_is_generated_by_another(tmp_path: Path) -> None:
    found, status, generated = run(tmp_path, 200, 40, 2, kill_on="poison")
    assert (status["rows_ok"], status["rows_error"]) == (199, 1)
    assert [row["n"] for row in found if row["status"] == "error"] == [100]
    assert len({(row["prompt"], row["response"]) for row in found}) == 41
    assert 40 <= generated < 80, "the others were told at once, and what it had finished is kept"

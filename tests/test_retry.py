"""retry: failed rows run again, exactly those; verify and status with the retries; repair."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest

from batchgen import commit, frozen, plan, planfile, read, report, retry
from batchgen.errors import InputError
from batchgen.feed import encode_block, encode_span
from batchgen.generate import Replica
from batchgen.planfile import Plan
from batchgen.run import Prepared, prepare
from batchgen.spec import Job
from batchgen.store import Store, open_store
from batchgen.verify import repair, verify

ROWS = 30


class Output:
    """A job over rows of which every fifth is refused until `mended`; `run` does without a cluster what a run does."""

    def __init__(self, folder: Path) -> None:
        lines = [json.dumps({"prompt": f"row {n}" + (" forbidden" if n % 5 == 0 else "")}) for n in range(ROWS)] + ["no json"]
        (folder / "in.jsonl").write_text("\n".join(lines))
        self.fields: dict[str, Any] = {
            "input": {"path": str(folder / "in.jsonl"), "prompt": "prompt"},
            "engine": {"kind": "echo", "options": {"reject_on": "forbidden"}},
            "sampling": {"n": 2},
            "spans": {"rows": 10},
            "output": {"path": str(folder / "out")},
        }
        self.store: Store = open_store(str(folder / "out"))
        self.run()

    @property
    def prepared(self) -> Prepared:
        return prepare(Job.parse(self.fields))

    @property
    def plan(self) -> Plan:
        return planfile.load_plan(self.store, 2)[0]

    def mend(self) -> None:
        self.fields["engine"] = {"kind": "echo"}

    def run(self) -> int:
        """Generate the spans without a part; how many rows were generated."""
        made = self.prepared
        job, columns = made.job, made.columns
        frozen.freeze(self.store, job, made.renderer.model, columns.kept)
        planned = plan.freeze_plan(job, self.store, made.found, columns)
        shard = planned.shards[0]
        worker = Replica(made.renderer, job.output.path, [shard.name])

        async def work() -> int:
            await worker.start()
            generated = 0
            for span in planned.missing(commit.committed(self.store)):
                [(_, rows, kept)] = read.read_spans(job.input, shard, [span], columns.kept, made.renderer.needed)
                prompts = encode_span(made.renderer, shard.name, rows, span.again)
                receipt = await worker.run(encode_block(span, prompts, kept))
                generated += receipt.counts.rows
            await worker.stop()
            return generated

        generated = asyncio.run(work())
        self.store.put(planfile.SUCCESS, b"")
        return generated

    def retry(self, *codes: str) -> int:
        found = frozen.load_frozen(self.store)
        assert found is not None
        return retry.plan_retry(self.store, found, codes or None)

    def rows(self, **wanted: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = ds.dataset(f"{self.store.url}/data").to_table().to_pylist()
        return [row for row in found if all(row[key] == value for key, value in wanted.items())]

    def status(self) -> dict[str, Any]:
        found = report.read_status(self.store)
        assert found is not None
        return found


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output(tmp_path)


def test_a_retry_pays_for_the_failed_rows_and_no_others(output: Output) -> None:
    assert (len(output.rows(status="ok")), len(output.rows(error_code="engine_rejected"))) == (48, 12)
    before = {name: output.store.get(name) for name in output.store.list("data")}
    output.mend()
    assert output.retry() == 12
    assert output.run() == 12
    assert {name: output.store.get(name) for name in before} == before, "the history stays"
    ok = output.rows(status="ok")
    assert sorted((row["row"], row["sample"]) for row in ok) == [(n, s) for n in range(ROWS) for s in range(2)]
    assert {row["attempt"] for row in ok if row["row"] % 5 == 0} == {2}
    assert verify(output.store).problems == []
    assert (verify(output.store).rows_ok, verify(output.store).rows_error) == (60, 2)
    status = output.status()
    assert (status["rows_ok"], status["rows_error"], status["rows_planned"]) == (60, 2, 62)
    assert status["errors"] == {"input": 2}
    assert output.retry() == 0, "nothing is left that another attempt could change"


def test_a_retried_row_is_what_it_would_have_been(output: Output, tmp_path: Path) -> None:
    output.mend()
    output.retry()
    output.run()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/in.jsonl").write_text((tmp_path / "in.jsonl").read_text())
    other = Output.__new__(Output)
    other.fields = {**output.fields, "output": {"path": str(tmp_path / "other/out")}}
    other.store = open_store(str(tmp_path / "other/out"))
    other.run()

    def texts(made: Output) -> list[tuple[int, int, str]]:
        return sorted((row["row"], row["sample"], row["response"]) for row in made.rows(status="ok"))

    assert texts(output) == texts(other)


def test_rows_that_fail_again_supersede_and_can_be_tried_again(output: Output) -> None:
    assert (output.retry(), output.run()) == (12, 12)
    assert output.status()["errors"] == {"engine_rejected": 12, "input": 2}
    output.mend()
    assert (output.retry("engine_rejected"), output.run()) == (12, 12)
    assert {row["attempt"] for row in output.rows(status="ok") if row["row"] % 5 == 0} == {3}
    assert output.status()["errors"] == {"input": 2}
    assert verify(output.store).problems == []


def test_only_the_codes_asked_for_are_run_and_an_open_retry_is_finished_first(output: Output) -> None:
    assert output.retry("timeout") == 0
    assert output.retry("input") == 2
    assert output.retry("engine_rejected") == 0, "the retry of before is not done"
    assert verify(output.store).problems == [f"data/{output.plan.spans[-1].name}.parquet: missing (1 rows)"]
    assert output.run() == 2
    assert output.retry("engine_rejected") == 12


def test_a_retry_of_an_unfinished_output_is_refused(output: Output) -> None:
    output.store.delete(commit.part_name(output.plan.spans[0].name))
    with pytest.raises(InputError, match="1 spans have no part yet; run the job to its end first"):
        output.retry()


def damage(output: Output, span: int) -> str:
    name = commit.part_name(output.plan.spans[span].name)
    data = output.store.get(name)
    assert data is not None
    output.store.put(name, data[: len(data) // 2])
    return name


def test_repair_moves_a_damaged_part_away_and_the_next_run_makes_it_again(output: Output) -> None:
    name = damage(output, 1)
    verdict = verify(output.store)
    assert verdict.damaged == [name]
    [moved] = repair(output.store, verdict)
    assert output.store.get(moved) is not None
    assert output.store.get(name) is None
    assert output.run() == 20
    assert verify(output.store).problems == []
    assert output.status()["rows_ok"] == 48


def test_a_damaged_retry_is_made_again_and_what_it_rests_on_is_left_alone(output: Output) -> None:
    output.mend()
    output.retry()
    output.run()
    assert len(output.plan.spans) == 7
    retried = damage(output, 4)
    assert repair(output.store, verify(output.store))[0].startswith(f"_batchgen/quarantine/{retried.split('/')[1]}")
    assert output.run() == 4
    assert verify(output.store).problems == []
    damage(output, 0)
    verdict = verify(output.store)
    assert verdict.damaged == []
    assert any("it cannot be repaired: rows of it were run again since" in problem for problem in verdict.problems)


def test_a_retry_that_lies_is_found(output: Output) -> None:
    output.mend()
    output.retry()
    output.run()
    first, second = (commit.part_name(output.plan.spans[n].name) for n in (4, 5))
    data = output.store.get(second)
    assert data is not None
    output.store.put(first, data)
    problems = verify(output.store).problems
    assert any("is missing or was not planned" in problem for problem in problems)

"""retry: failed rows run again, exactly those; verify and status with the retries; repair."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchgen.errors import InputError
from batchgen.output import parts
from batchgen.output.store import open_store
from tests.support.finished import ROWS, Finished


@pytest.fixture
def output(tmp_path: Path) -> Finished:
    return Finished(tmp_path)


def test_a_retry_pays_for_the_failed_rows_and_no_others(output: Finished) -> None:
    assert (len(output.rows(status="ok")), len(output.rows(error_code="engine_rejected"))) == (48, 12)
    before = {name: output.store.get(name) for name in output.store.list("data")}
    output.mend()
    assert output.retry() == 12
    assert output.run() == 12
    assert {name: output.store.get(name) for name in before} == before, "the history stays"
    ok = output.rows(status="ok")
    assert sorted((row["row"], row["sample"]) for row in ok) == [(n, s) for n in range(ROWS) for s in range(2)]
    assert {row["attempt"] for row in ok if row["row"] % 5 == 0} == {2}
    assert output.output.verify().problems == []
    assert (output.output.verify().rows_ok, output.output.verify().rows_error) == (60, 2)
    status = output.status()
    assert (status["rows_ok"], status["rows_error"], status["rows_planned"]) == (60, 2, 62)
    assert status["errors"] == {"input": 2}
    assert output.retry() == 0, "nothing is left that another attempt could change"


def test_a_retried_row_is_what_it_would_have_been(output: Finished, tmp_path: Path) -> None:
    output.mend()
    output.retry()
    output.run()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/in.jsonl").write_text((tmp_path / "in.jsonl").read_text())
    other = Finished.__new__(Finished)
    other.fields = {**output.fields, "output": {"path": str(tmp_path / "other/out")}}
    other.store = open_store(str(tmp_path / "other/out"))
    other.run()

    def texts(made: Finished) -> list[tuple[int, int, str]]:
        return sorted((row["row"], row["sample"], row["response"]) for row in made.rows(status="ok"))

    assert texts(output) == texts(other)


def test_rows_that_fail_again_supersede_and_can_be_tried_again(output: Finished) -> None:
    assert (output.retry(), output.run()) == (12, 12)
    assert output.status()["errors"] == {"engine_rejected": 12, "input": 2}
    output.mend()
    assert (output.retry("engine_rejected"), output.run()) == (12, 12)
    assert {row["attempt"] for row in output.rows(status="ok") if row["row"] % 5 == 0} == {3}
    assert output.status()["errors"] == {"input": 2}
    assert output.output.verify().problems == []


def test_only_the_codes_asked_for_are_run_and_an_open_retry_is_finished_first(output: Finished) -> None:
    assert output.retry("timeout") == 0
    assert output.retry("input") == 2
    assert output.retry("engine_rejected") == 0, "the retry of before is not done"
    verdict = output.output.verify()
    assert verdict.problems == ["unfinished: 1 of 5 spans have no part yet; run the job again to finish it"]
    assert verdict.unfinished
    assert output.run() == 2
    assert output.retry("engine_rejected") == 12


def test_a_retry_of_an_unfinished_output_is_refused(output: Finished) -> None:
    output.store.delete(parts.part_name(output.plan.spans[0].name))
    with pytest.raises(InputError, match="1 spans have no part yet; run the job to its end first"):
        output.retry()


def test_samples_that_the_run_itself_tried_again_are_proven_too(tmp_path: Path) -> None:
    output = Finished(
        tmp_path,
        ['{"prompt": "a b c"}'],
        sampling={"n": 2, "max_tokens": 1, "ignore_eos": True},
        errors={"truncated": {"retry": 1, "sampling": {"max_tokens": 7}}},
    )
    assert [(row["sample"], row["attempt"], row["sampling"]["n"]) for row in output.rows()] == [(0, 2, 2), (1, 2, 2)]
    assert output.output.verify().problems == []


def damage(output: Finished, span: int) -> str:
    name = parts.part_name(output.plan.spans[span].name)
    data = output.store.get(name)
    assert data is not None
    output.store.put(name, data[: len(data) // 2])
    return name


def test_repair_moves_a_damaged_part_away_and_the_next_run_makes_it_again(output: Finished) -> None:
    name = damage(output, 1)
    verdict = output.output.verify()
    assert verdict.damaged == [name]
    [moved] = output.output.repair(verdict)
    assert output.store.get(moved) is not None
    assert output.store.get(name) is None
    assert output.run() == 20
    assert output.output.verify().problems == []
    assert output.status()["rows_ok"] == 48


def test_a_damaged_retry_is_made_again_and_what_it_rests_on_is_left_alone(output: Finished) -> None:
    output.mend()
    output.retry()
    output.run()
    assert len(output.plan.spans) == 7
    retried = damage(output, 4)
    assert output.output.repair(output.output.verify())[0].startswith(f"_batchgen/quarantine/{retried.split('/')[1]}")
    assert output.run() == 4
    assert output.output.verify().problems == []
    damage(output, 0)
    verdict = output.output.verify()
    assert verdict.damaged == []
    assert any("it cannot be repaired: rows of it were run again since" in problem for problem in verdict.problems)


def test_a_retry_that_lies_is_found(output: Finished) -> None:
    output.mend()
    output.retry()
    output.run()
    first, second = (parts.part_name(output.plan.spans[n].name) for n in (4, 5))
    data = output.store.get(second)
    assert data is not None
    output.store.put(first, data)
    problems = output.output.verify().problems
    assert any("is missing or was not planned" in problem for problem in problems)

"""jobs/steerlm: which labels, combinations and answers go from step to step; the labeler's prompt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import batchgen
from batchgen.prepare import prepare
from tests.support.reading import read_prepared

FOLDER = Path(__file__).parents[2] / "jobs/steerlm"


@pytest.fixture(scope="module")
def steerlm(script: Any) -> Any:
    return script("../jobs/steerlm/steerlm.py")


def labelled(name: str, status: str = "ok", **parsed: int) -> dict[str, Any]:
    return {"id": name, "status": status, "parsed": parsed or None}


def test_an_answer_has_the_labels_of_both_jobs_or_none(steerlm: Any) -> None:
    first = [labelled("a", helpfulness=1), labelled("b", helpfulness=2), labelled("c", "error")]
    second = [labelled("a", quality=4), labelled("c", quality=3)]
    assert steerlm.merged(first, second) == {"a": {"helpfulness": 1, "quality": 4}}


def queried(name: str, path: Path, *overrides: str) -> list[dict[str, Any]]:
    """The rows that a job's query makes of a file."""
    bare = ["model=null", "engine={kind: echo}", f"input.path={path}", f"output.path={path.parent}/out", *overrides]
    return read_prepared(prepare(batchgen.Job.load(FOLDER / f"{name}.yaml", bare)))[1]


def test_answers_at_hand_become_conversations() -> None:
    made = batchgen.Job.load(FOLDER / "label-oasst.yaml", ["model=null", "engine={kind: echo}"])
    first = read_prepared(prepare(made))[0][0]
    answer = json.loads((FOLDER / "answers.jsonl").read_text().splitlines()[0])
    said = [("user", answer["prompt"]), ("assistant", answer["response"])]
    assert first.messages is not None
    assert [(one["role"], one["content"]) for one in first.messages] == said


def test_the_label_of_a_new_answer_has_the_answers_name(steerlm: Any, tmp_path: Path) -> None:
    answer = {"id": "p", "variant": 1, "sample": 2, "completion_tokens": 3, "attributes": {"quality": 4}}
    talk = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    pq.write_table(pa.Table.from_pylist([{**answer, "messages": talk}]), tmp_path / "in.parquet")
    [row] = queried("label-oasst", tmp_path / "in.parquet", f"input.query={steerlm.NEW}", "input.id=null", "input.keep=all")
    assert row["input_id"] == steerlm.answer_id(answer) == "p-1-2"
    assert row["input_attributes"] == {"quality": 4}


def test_prompts_get_combinations_of_the_best_quality_as_often_as_they_are_there(tmp_path: Path) -> None:
    quality, humor = [3, 2, 3, 3], [1, 4, 1, 0]
    for name, parsed in {"helpsteer": [{"humor": one} for one in humor], "oasst": [{"quality": one} for one in quality]}.items():
        pq.write_table(pa.table({"id": [f"a{n}" for n in range(4)], "parsed": parsed}), tmp_path / f"{name}.parquet")
    tables = f"input.tables={{helpsteer: {tmp_path}/helpsteer.parquet, oasst: {tmp_path}/oasst.parquet}}"
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"id": f"p{n}", "prompt": "q"}) + "\n" for n in range(300)))
    rows = queried("generate", tmp_path / "in.jsonl", tables)
    assert {row["quality"] for row in rows} == {3}
    assert len(rows) == 300
    assert 150 < sum(row["humor"] == 1 for row in rows) < 250
    assert {row["humor"] for row in rows} == {0, 1}


def test_only_answers_with_labels_and_enough_of_what_is_asked_for_are_kept(steerlm: Any) -> None:
    row = {"id": "p", "variant": 0, "prompt": "q", "status": "ok"}
    made = steerlm.new_answers(
        [
            {**row, "sample": 0, "response": " one "},
            {**row, "sample": 1, "response": " "},
            {**row, "sample": 2, "response": None, "status": "error"},
            {**row, "sample": 3, "response": "two"},
            {**row, "sample": 4, "response": "three"},
        ]
    )
    assert [(answer["id"], answer["response"]) for answer in made] == [("p-0-0", "one"), ("p-0-3", "two"), ("p-0-4", "three")]
    labels = {"p-0-0": {"quality": 4}, "p-0-3": {"quality": 2}}
    assert steerlm.kept(made, labels, {"quality": 3}) == [
        {"id": "p-0-0", "prompt": "q", "response": "one", "attributes": {"quality": 4}}
    ]

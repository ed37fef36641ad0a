"""jobs/steerlm: which labels, combinations and answers go from step to step; the labeler's prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

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


def test_the_label_of_a_new_answer_has_the_answers_name(steerlm: Any) -> None:
    answer = {"id": "p", "variant": 1, "sample": 2}
    of_answer = {"id": "p", "variant": 0, "sample": 0, "input_variant": 1, "input_sample": 2}
    assert steerlm.labelled_id(of_answer) == steerlm.answer_id(answer) == "p-1-2"


def test_combinations_are_those_of_the_best_quality_as_often_as_they_are_there(steerlm: Any) -> None:
    labels = [{"quality": 3, "humor": 1}, {"quality": 2, "humor": 4}, {"quality": 3, "humor": 1}, {"quality": 3, "humor": 0}]
    assert steerlm.combinations(labels) == [labels[0], labels[2], labels[3]]


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

"""jobs/steerlm: which labels, combinations and answers go from step to step; the labeler's prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rendering import bare, one

from batchgen.spec import Job

FOLDER = Path(__file__).parents[1] / "jobs/steerlm"


@pytest.fixture(scope="module")
def steerlm(script: Any) -> Any:
    return script("../jobs/steerlm/steerlm.py")


def labelled(name: str, status: str = "ok", **parsed: int) -> dict[str, Any]:
    return {"id": name, "status": status, "parsed": parsed or None}


def test_an_answer_has_the_labels_of_both_jobs_or_none(steerlm: Any) -> None:
    first = [labelled("a", helpfulness=1), labelled("b", helpfulness=2), labelled("c", "error")]
    second = [labelled("a", quality=4), labelled("c", quality=3)]
    assert steerlm.merged(first, second) == {"a": {"helpfulness": 1, "quality": 4}}


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


@pytest.mark.parametrize(("name", "mark"), [("helpsteer", "ATTR_1"), ("oasst", "ATTR_2")])
def test_the_labelers_prompt_is_its_cards(name: str, mark: str) -> None:
    job = Job.load(FOLDER / f"label-{name}.yaml")
    assert job.model is not None
    source = {"path": "x", "messages": "messages", "continue_final_message": False, "answer_role": "label"}
    renderer = bare((FOLDER / "labeler.jinja").read_text(), input=source)
    renderer._arguments = job.model.chat_template_kwargs
    said = [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "Hello! How can I help you today?"}]
    assert one(renderer, messages=said).text == f"<s>[INST] Hello! [/INST] Hello! How can I help you today? [{mark}]"
    again = [
        *said,
        {"role": "label", "content": "a: 1"},
        {"role": "user", "content": "Thank you!"},
        {"role": "assistant", "content": "Yes."},
    ]
    assert one(renderer, messages=again).text.endswith(f" [{mark}] a: 1 [/{mark}]</s>[INST] Thank you! [/INST] Yes. [{mark}]")
    wrong = one(renderer, messages=[*said, *said])
    assert wrong.error is not None
    assert "user, assistant, label" in wrong.error.detail

"""Label jobs: a model that writes attribute values, as its card says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from batchgen.engines.base import ENGINES
from batchgen.errors import JobError
from batchgen.job.job import Job
from batchgen.job.schemas import BUILT_IN
from batchgen.records import Prompt
from batchgen.render.model_files import ModelFiles
from batchgen.render.renderer import Renderer
from tests.support.rendering import CHATML, TOKENIZER, error_of, make_job, one
from tests.support.replicas import answered

MESSAGES = {"path": "in.jsonl", "messages": "messages"}
MARKS = {"helpsteer": "ATTR_1", "oasst": "ATTR_2"}
ANSWERS = {
    "helpsteer": " helpfulness: 2 correctness: 1 coherence: 2 complexity: 1 verbosity: 1",
    "oasst": " quality: 3 toxicity: 1 humor: 1 creativity: 1",
}
HELLO = [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "Hello! How can I help you today?"}]
THANKS = [{"role": "user", "content": "Thank you!"}, {"role": "assistant", "content": "You're welcome!"}]
# A labeler's own template, which reads the argument `label`.
OWN = "{% for m in messages %}{{ m['content'] }}|{% endfor %}{{ label }}?"


def label_job(predict: str | None = "helpsteer", **fields: Any) -> Job:
    return make_job(**{"input": MESSAGES, "attributes": {"schema": "karakuri-apm", "predict": predict}} | fields)


def renderer(job: Job, template: str | None = None) -> Renderer:
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    return Renderer(job, ModelFiles("labeler", None, None, TOKENIZER, template, special, 2048, {}))


def rendered(label: str, messages: list[dict[str, Any]], template: str | None = None) -> Prompt:
    return one(renderer(label_job(label), template), messages=messages)


@pytest.mark.parametrize("label", MARKS)
@pytest.mark.parametrize("template", [None, CHATML])
def test_the_labelers_prompt_is_its_cards(label: str, template: str | None) -> None:
    mark = MARKS[label]
    first = f"<s>[INST] Hello! [/INST] Hello! How can I help you today? [{mark}]"
    assert rendered(label, HELLO, template).text == first
    again = [*HELLO, {"role": "label", "content": ANSWERS[label]}, *THANKS]
    assert rendered(label, again, template).text == (
        f"{first}{ANSWERS[label]} [/{mark}]</s>[INST] Thank you! [/INST] You're welcome! [{mark}]"
    )


def test_roles_cycle_through_user_assistant_and_label() -> None:
    code, detail = error_of(rendered("oasst", [*HELLO, *HELLO]))
    assert (code, detail) == ("render", "in.jsonl:1: chat template: roles must be user, assistant, label, and again")


def test_the_models_own_template_is_used_where_its_argument_says_which_labels() -> None:
    own = renderer(label_job("oasst", model={"source": "x"}, engine={"kind": "echo"}), OWN)
    assert own.layout == "model template"
    assert one(own, messages=HELLO).text.endswith("|oasst?")
    assert renderer(label_job("oasst"), CHATML).layout == "schema template"


@pytest.mark.parametrize("label", MARKS)
def test_an_answer_is_held_to_the_form_and_read_into_integers(label: str, tmp_path: Path) -> None:
    job = label_job(label)
    assert job.constant_sampling["stop"] == f"[/{MARKS[label]}]"
    assert (job.constant_sampling["temperature"], job.input.answer_role) == (0, "label")
    [pattern] = job.constant_sampling["structured_outputs"].values()
    assert pattern == "".join(f" {name}: [0-4]" for name in BUILT_IN["karakuri-apm"].labels[label].names)
    rows, _ = answered(
        tmp_path,
        [{"messages": HELLO, "helpfulness": 3, "quality": 9}],
        input={"path": str(tmp_path / "in.jsonl"), "messages": "messages"},
        attributes={"schema": "karakuri-apm", "predict": label},
        sampling={"structured_outputs": {"choice": [ANSWERS[label]]}},
    )
    values = iter(ANSWERS[label].split())
    assert rows[0]["parsed"] == {name.rstrip(":"): int(value) for name, value in zip(values, values, strict=True)}
    assert rows[0]["messages"][-1] == {"role": "label", "content": ANSWERS[label].strip()}
    assert rows[0]["helpfulness"] == 3, "what the row says of itself is data"
    assert "attributes" not in rows[0]


def test_what_a_job_says_itself_wins() -> None:
    job = label_job(sampling={"max_tokens": 9, "n": 2}, parse={"regex": "(?P<all>.*)"}, input=MESSAGES | {"answer_role": "judge"})
    assert (job.constant_sampling["max_tokens"], job.samples, job.input.answer_role) == (9, 2, "judge")
    assert job.constant_sampling["stop"] == "[/ATTR_1]"
    assert job.parse_ is not None
    assert job.parse_.kinds == {"all": "string"}


def test_a_frozen_label_job_reads_as_it_was_written() -> None:
    job = label_job("oasst")
    assert Job.model_validate(job.model_dump(mode="json", by_alias=True)).meaning() == job.meaning()
    assert job.meaning() != label_job("helpsteer").meaning()


@pytest.mark.parametrize(
    ("attributes", "cause"),
    [
        ({"schema": "karakuri-apm"}, "predict: a model of schema karakuri-apm writes values: name helpsteer or oasst"),
        ({"schema": "karakuri-apm", "predict": "quality"}, "name helpsteer or oasst"),
        ({"schema": "karakuri", "predict": "oasst"}, "a model of schema karakuri reads the values; karakuri-apm writes them"),
        ({"schema": "karakuri-apm", "predict": "oasst", "values": {"humor": 1}}, "give no values, sweep, sample or columns"),
        ({"schema": "karakuri-apm", "predict": "oasst", "sweep": {"humor": [0, 1]}}, "give no values, sweep, sample or columns"),
    ],
)
def test_values_are_either_read_or_written(attributes: dict[str, Any], cause: str) -> None:
    with pytest.raises(JobError, match=cause):
        make_job(input=MESSAGES, attributes=attributes)


def test_an_endpoint_has_no_place_for_the_labelers_prompt() -> None:
    with pytest.raises(JobError, match=r"attributes\.predict: an endpoint applies a template of its own"):
        ENGINES.named("openai").check(label_job(model={"source": "x"}, engine={"kind": "openai"}))

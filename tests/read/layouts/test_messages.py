"""Conversations that end with the assistant's message: an answer to be continued, or one to be labelled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from batchgen.errors import JobError
from batchgen.job.job import Job
from batchgen.render.model_files import load_model
from batchgen.render.renderer import Renderer
from tests.support.rendering import BLOCK, CHATML, bare, conversation, error_of, make_job, one, tiny
from tests.support.replicas import answered

CONTINUED = {"path": "in.jsonl", "messages": "messages", "continue_final_message": True}
LABELLED = {**CONTINUED, "continue_final_message": False, "answer_role": "label"}
# The labeler KARAKURI LM 7B APM, as its card has it: user, assistant, label, and again; the argument `label` says which.
APM = (
    "{{ bos_token }}{% set attr = {'helpsteer': 'ATTR_1', 'oasst': 'ATTR_2'}[label] %}{% for m in messages %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] | trim + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] | trim }}"
    "{% else %}{{ ' [' + attr + '] ' + m['content'] | trim + ' [/' + attr + ']' + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ ' [' + attr + ']' }}{% endif %}"
)
HELLO = [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "Hello! How can I help you today?"}]
LABEL = "helpfulness: 2 correctness: 1 coherence: 2 complexity: 1 verbosity: 1"
THANKS = [{"role": "user", "content": "Thank you!"}, {"role": "assistant", "content": "You're welcome!"}]


def begun(answer: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": "Say it."}, {"role": "assistant", "content": answer}]


def test_an_answer_is_continued_where_it_ends() -> None:
    assert one(bare(CHATML, input=CONTINUED), messages=begun('{"score":')).text == (
        '<|im_start|>user\nSay it.<|im_end|>\n<|im_start|>assistant\n{"score":'
    )
    steered = one(tiny(input=CONTINUED), messages=begun("I think\n")).text
    assert steered == f"<s>[INST] Say it. {BLOCK} [/INST] I think", "the template strips it"


def test_an_answer_that_repeats_an_earlier_text_is_the_last_one() -> None:
    said = [*conversation()[1:3], {"role": "user", "content": "Failed."}, {"role": "assistant", "content": "Model response"}]
    assert one(tiny(input=CONTINUED), messages=said).text.endswith("Failed. " + BLOCK + " [/INST] Model response")


def test_a_template_that_hides_the_last_message_cannot_continue_it() -> None:
    prompt = one(bare("{{ messages[0]['content'] }}", input=CONTINUED), messages=begun("so"))
    assert error_of(prompt) == (
        "render",
        "in.jsonl:1: the last message, which is to be continued, is not in the chat template's text",
    )


@pytest.mark.parametrize(("source", "last"), [(CONTINUED, "user"), (LABELLED, "user"), (None, "assistant")])
def test_a_conversation_must_end_as_the_job_says(source: Any, last: str) -> None:
    source = source or {"path": "in.jsonl", "messages": "messages"}
    wanted = "assistant" if last == "user" else "user or tool"
    prompt = one(bare(CHATML, input=source), messages=begun("so")[: 1 if last == "user" else 2])
    assert error_of(prompt) == ("input", f"in.jsonl:1: messages: the last message must be the {wanted}'s, not the {last}'s")


def test_only_conversations_have_a_final_message() -> None:
    with pytest.raises(JobError, match="continue_final_message is about conversations"):
        make_job(input={"path": "in.jsonl", "prompt": "prompt", "continue_final_message": True})


def test_the_answer_in_the_output_is_whole(tmp_path: Path) -> None:
    rows, _ = answered(
        tmp_path,
        [{"messages": begun('{"score": 3} ')}],
        input={"path": str(tmp_path / "in.jsonl"), "messages": "messages", "continue_final_message": True},
        sampling={"structured_outputs": {"choice": ["and so on"]}},
        parse={"regex": r'"score": (?P<score>\d)'},
    )
    assert rows[0]["response"] == '{"score": 3} and so on'
    assert rows[0]["messages"] == [*begun("")[:1], {"role": "assistant", "content": '{"score": 3} and so on'}]
    assert rows[0]["parsed"] == {"score": "3"}


def test_template_arguments_come_from_the_job_and_decide_what_a_row_means(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    tokenizer = Path(__file__).parents[3] / "jobs/models/tiny-karakuri/tokenizer.json"
    (tmp_path / "model/tokenizer.json").write_bytes(tokenizer.read_bytes())
    (tmp_path / "model/tokenizer_config.json").write_text(
        json.dumps({"chat_template": APM, "bos_token": "<s>", "eos_token": "</s>"})
    )

    def job(label: str) -> Job:
        return make_job(input=LABELLED, model={"source": str(tmp_path / "model"), "chat_template_kwargs": {"label": label}})

    made = Renderer(job("oasst"), load_model(job("oasst").model))
    assert one(made, messages=HELLO).text.endswith(" [ATTR_2]")
    assert job("oasst").meaning() != job("helpsteer").meaning()


def test_a_label_is_the_labels_in_the_output(tmp_path: Path) -> None:
    rows, _ = answered(
        tmp_path,
        [{"messages": HELLO}],
        input={**LABELLED, "path": str(tmp_path / "in.jsonl")},
        sampling={"structured_outputs": {"choice": [" " + LABEL]}},
        parse={"regex": r"helpfulness: (?P<helpfulness>[0-4])", "columns": {"helpfulness": "integer"}},
    )
    assert rows[0]["messages"] == [*HELLO, {"role": "label", "content": LABEL}]
    assert rows[0]["parsed"] == {"helpfulness": 2}

"""`input.drop_last_answer`: the answer that ends a conversation is made anew."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchgen.read.layouts import JobLayout
from batchgen.records import Row
from tests.support.jobs import fields, refusal
from tests.support.reading import job_of

LAYOUT = JobLayout(job_of(prompt=None, messages="m", drop_last_answer=True))


def said(role: str, content: str = "a") -> dict[str, Any]:
    return {"role": role, "content": content}


def laid_out(*messages: dict[str, Any]) -> Row:
    return LAYOUT.lay_out(Row(0, {"m": list(messages)}), "in.jsonl")


@given(st.lists(st.sampled_from(["user", "assistant", "system", "tool"]), min_size=1, max_size=6))
def test_what_is_left_ends_as_the_model_wants_it_or_the_row_says_why_not(roles: list[str]) -> None:
    talk = [said(role, str(number)) for number, role in enumerate(roles)]
    row, left = laid_out(*talk), talk[:-1] if roles[-1] == "assistant" else talk
    if left and left[-1]["role"] in ("user", "tool"):
        assert row.messages == left
    else:
        assert row.error is not None
        assert row.data == {"m": talk}, "the row keeps what it had"


def test_only_the_last_answer_goes() -> None:
    row = laid_out(said("user"), said("assistant"), said("assistant"))
    assert row.error is not None
    assert row.error.detail == "in.jsonl:1: m: the last message must be the user or tool's, not the assistant's"


def test_a_conversation_that_is_an_answer_alone_is_an_error() -> None:
    row = laid_out(said("assistant"))
    assert row.error is not None
    assert row.error.detail == "in.jsonl:1: m: its only message is the answer that input.drop_last_answer leaves out"


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ({"drop_last_answer": True}, "drop_last_answer is about conversations: name input.messages or input.conversations"),
        (
            {"prompt": None, "messages": "m", "drop_last_answer": True, "continue_final_message": True},
            "drop_last_answer leaves out what continue_final_message needs: choose one",
        ),
        ({"context": "c"}, "context belongs to an instruction: name input.instruction"),
        ({"history": "h"}, "history belongs to an instruction: name input.instruction"),
    ],
)
def test_fields_that_do_not_fit_are_a_mistake_of_the_job(source: dict[str, Any], cause: str) -> None:
    assert cause in refusal(fields(input=source))

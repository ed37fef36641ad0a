"""Rows become prompts: the exact text, what a row may bring, and how long a prompt may be."""

from __future__ import annotations

import pickle
from datetime import date
from typing import Any

import pytest
from tokenizers import Tokenizer

from batchgen.job.schemas import BUILT_IN
from batchgen.render.model_files import load_model
from batchgen.render.renderer import Renderer, prompt_hash
from tests.support.rendering import (
    ARGUMENTS,
    BLOCK,
    BOS,
    CARD,
    EOS,
    TOKENIZER,
    TWO,
    bare,
    conversation,
    error_of,
    make_job,
    one,
    prompts,
    tiny,
)

ROLES = "system, developer, user, assistant, tool, label"
STEERLM = (
    "<extra_id_0>System\nS\n<extra_id_1>User\nU\n<extra_id_1>Assistant\n<extra_id_2>"
    "quality:4,toxicity:0,humor:0,creativity:0,helpfulness:4,correctness:4,coherence:4,complexity:4,verbosity:4\n"
)


# The text of the prompt


@pytest.mark.parametrize(("make", "layout"), [(tiny, "model template"), (bare, "schema template")])
def test_the_model_cards_conversation_is_rendered_byte_by_byte(make: Any, layout: str) -> None:
    renderer = make(attributes={"schema": "karakuri"})
    text, ids = renderer.encode(conversation(**BUILT_IN["karakuri"].defaults))
    assert renderer.layout == layout
    assert text == CARD
    assert ids == Tokenizer.from_str(TOKENIZER).encode(CARD, add_special_tokens=False).ids
    assert (ids[0], ids.count(BOS), ids.count(EOS)) == (BOS, 2, 1)


def test_the_model_cards_conversation_comes_out_of_a_messages_column() -> None:
    renderer = tiny(input={"path": "in.jsonl", "messages": "messages"})
    assert one(renderer, messages=conversation()).text == CARD


@pytest.mark.parametrize("make", [tiny, bare])
def test_texts_are_stripped_and_the_system_text_joins_the_first_user_turn(make: Any) -> None:
    renderer = make(attributes={"schema": "karakuri"}, input={"path": "in.jsonl", "prompt": "prompt", "system": " Be brief. "})
    assert one(renderer, prompt="\n Hello \n").text == f"<s>[INST] <<SYS>>\n Be brief. \n<</SYS>>\n\n\n Hello {BLOCK} [/INST]"
    renderer = make(attributes={"schema": "karakuri"})
    assert one(renderer, prompt="\n Hello \n").text == f"<s>[INST] Hello {BLOCK} [/INST]"


@pytest.mark.parametrize("make", [tiny, bare])
def test_a_changed_value_changes_its_place_in_the_text_alone(make: Any) -> None:
    renderer = make(attributes={"schema": "karakuri"})
    changed = one(renderer, prompt="Hello", complexity=0).text
    assert changed == f"<s>[INST] Hello {BLOCK} [/INST]".replace("complexity: 4", "complexity: 0")


def test_the_steerlm_layout_is_rendered_byte_by_byte() -> None:
    renderer = bare(attributes={"schema": "steerlm"}, input={"path": "in.jsonl", "prompt": "prompt", "system": "S"})
    assert one(renderer, prompt="U").text == STEERLM


def test_the_steerlm_layout_repeats_the_block_for_every_answer() -> None:
    values = BUILT_IN["steerlm"].defaults
    text, _ = bare(attributes={"schema": "steerlm"}).encode(conversation(**values))
    block = STEERLM.partition("<extra_id_2>")[2]
    turn = f"<extra_id_1>User\nUser prompt\n<extra_id_1>Assistant\n<extra_id_2>{block}"
    assert text == f"<extra_id_0>System\nSystem prompt\n{turn}Model response\n{turn}"


def test_without_a_template_the_prompt_is_the_text_itself() -> None:
    assert one(bare(), prompt="Once upon").text == "Once upon"


def test_a_job_without_a_model_has_one_token_per_byte() -> None:
    prompt = one(Renderer(make_job(), load_model(None)), prompt="é")
    assert (prompt.text, prompt.token_ids) == ("user: é\n", list("user: é\n".encode()))


def test_the_prompt_hash_depends_on_every_token_and_their_order() -> None:
    assert len({prompt_hash([1, 2, 3]), prompt_hash([1, 3, 2]), prompt_hash([1, 2]), prompt_hash([1, 2, 3, 0])}) == 4


# What a row may bring


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        ([], "m must be a list of at least one message"),
        ("Hello", "m must be a list of at least one message"),
        (["Hello"], "m: message 1 must be a struct, not str"),
        ([{"role": "human", "content": "a"}], f"m: message 1: role 'human' is not one of {ROLES}"),
        ([{"content": "a"}], f"m: message 1: role None is not one of {ROLES}"),
        ([{"role": "label", "content": "a"}], "m: the last message must be the user or tool's, not the label's"),
        ([{"role": "user"}], "m: message 1: content must be a string or a list of parts, not null"),
        (
            [{"role": "user", "content": [{"type": "text"}]}],
            "m: message 1: part 1 is neither {type: text, text: ...} nor {type: image_url, image_url: {url: ...}}",
        ),
        (
            [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
            "m: the last message must be the user or tool's, not the assistant's",
        ),
        (None, "m is null"),
    ],
)
def test_a_bad_conversation_is_an_input_error(value: Any, cause: str) -> None:
    assert error_of(one(tiny(input={"path": "x", "messages": "m"}), 2, m=value)) == ("input", f"in.jsonl:3: {cause}")


def test_a_missing_prompt_and_a_null_one_are_told_apart() -> None:
    assert error_of(one(tiny(), question="a")) == ("input", "in.jsonl:1: prompt is missing")
    assert error_of(one(tiny(), prompt=None)) == ("input", "in.jsonl:1: prompt is null")
    assert error_of(one(tiny(), prompt=3)) == ("input", "in.jsonl:1: prompt must be a string, not int")


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        ([], "turns must be a list of at least one string"),
        ("a", "turns must be a list of at least one string"),
        (["a", 3], "turns: turn 2 must be a string or {content: a string}, not int"),
        ([None], "turns: turn 1 must be a string or {content: a string}, not null"),
    ],
)
def test_turns_must_be_strings(value: Any, cause: str) -> None:
    assert error_of(one(tiny(input={"path": "x", "turns": "turns"}), turns=value)) == ("input", f"in.jsonl:1: {cause}")


def test_the_first_turn_is_rendered_and_the_others_wait() -> None:
    prompt = one(tiny(input={"path": "x", "turns": "turns"}), turns=["a", "b", "c"], verbosity=1)
    assert prompt.text == f"<s>[INST] a {BLOCK} [/INST]".replace("verbosity: 4", "verbosity: 1")
    assert prompt.turns == ["b", "c"]


def test_a_scripted_turn_follows_the_answer_with_the_same_values() -> None:
    renderer = tiny(input={"path": "x", "turns": "turns"})
    prompt = one(renderer, turns=["User prompt", "User prompt"])
    assert prompt.messages is not None
    text, _ = renderer.encode(
        renderer.continued(prompt.messages, {"role": "assistant", "content": "Model response"}, "User prompt")
    )
    assert text == CARD.replace("<<SYS>>\nSystem prompt\n<</SYS>>\n\n", "")


@pytest.mark.parametrize(
    ("system", "row", "wanted"),
    [
        ("Constant", {}, "Constant"),
        ({"column": "s"}, {"s": "Column"}, "Column"),
        ({"column": "s"}, {"s": None}, None),
        (None, {"system": "data"}, None),
    ],
)
def test_the_system_text_is_a_constant_or_a_column(system: Any, row: dict[str, Any], wanted: str | None) -> None:
    prompt = one(tiny(input={"path": "x", "prompt": "prompt", "system": system}), prompt="a", **row)
    head = "" if wanted is None else f"<<SYS>>\n{wanted}\n<</SYS>>\n\n"
    assert prompt.text == f"<s>[INST] {head}a {BLOCK} [/INST]"


def test_a_system_value_that_is_no_text_is_an_input_error() -> None:
    renderer = tiny(input={"path": "x", "prompt": "prompt", "system": {"column": "s"}})
    assert error_of(one(renderer, prompt="a", s=1)) == ("input", "in.jsonl:1: system must be a string, not int")


def test_a_conversations_own_system_text_wins_over_the_jobs() -> None:
    renderer = tiny(input={"path": "x", "messages": "m", "system": "The job's"})
    assert one(renderer, m=conversation()).text == CARD
    assert "The job's" in one(renderer, m=conversation()[1:]).text


IDS: list[tuple[Any, str | None]] = [
    ("q1", "q1"),
    (7, "7"),
    (2**70, "1180591620717411303424"),
    (None, None),
    (True, "true"),
    ({"a": [1, None], "b": "é"}, '{"a": [1, null], "b": "é"}'),
    (["x", 2], '["x", 2]'),
    (b"\xff\x00", "/wA="),
    (date(2020, 1, 2), "2020-01-02"),
]


@pytest.mark.parametrize(("value", "name"), IDS)
def test_the_id_column_names_the_row_even_when_the_row_is_bad(value: Any, name: str | None) -> None:
    renderer = tiny(input={"path": "x", "prompt": "prompt", "id": "key"})
    assert [one(renderer, prompt=text, key=value).id for text in ("a", None)] == [name, name]


def test_needed_names_every_column_that_rendering_reads() -> None:
    fields = {"path": "x", "prompt": "p", "id": "i", "system": {"column": "s"}}
    attributes = {"schema": TWO, "columns": {"humor": "fun"}}
    renderer = bare(ARGUMENTS, input=fields, attributes=attributes, sampling={"n": {"column": "count"}})
    assert renderer.needed == {"i", "verbosity", "fun", "count", "sampling"}


def test_a_renderer_pickles_and_renders_the_same() -> None:
    renderer = tiny(attributes={"schema": "karakuri", "sweep": {"verbosity": [0, 4]}})
    again = pickle.loads(pickle.dumps(renderer))
    assert prompts(again, prompt="<s> Hello") == prompts(renderer, prompt="<s> Hello")
    assert again.layout == "model template"


# Length


def test_an_empty_prompt_is_a_render_error() -> None:
    assert error_of(one(bare(), prompt="")) == ("render", "in.jsonl:1: the prompt has no tokens")


def test_a_prompt_without_room_for_an_answer_is_too_long_and_says_by_how_much() -> None:
    length = len(one(tiny(), prompt="Hello").token_ids)
    exact = tiny(engine={"kind": "echo", "options": {"max_model_len": length}})
    detail = f"in.jsonl:1: the prompt has {length} tokens, the context {length}: no room for an answer"
    assert error_of(one(exact, prompt="Hello")) == ("too_long", detail)
    assert one(tiny(engine={"kind": "echo", "options": {"max_model_len": length + 1}}), prompt="Hello").error is None


def test_the_models_context_counts_where_the_engine_names_none() -> None:
    assert (tiny().context, error_of(one(tiny(), prompt="long " * 3000))[0]) == (2048, "too_long")


def test_a_variant_that_is_too_long_keeps_its_values_and_sampling() -> None:
    renderer = tiny(sampling={"n": 3})
    prompt = one(renderer, prompt="long " * 3000, verbosity=1)
    assert prompt.attributes == BUILT_IN["karakuri"].defaults | {"verbosity": 1}
    assert prompt.sampling is not None
    assert (prompt.sampling.n, prompt.token_ids, prompt.text) == (3, [], "")


@pytest.mark.parametrize(("wanted", "left"), [(None, 20), (5, 5), (20, 20), (1000, 20)])
def test_max_tokens_is_clamped_to_what_the_context_leaves(wanted: int | None, left: int) -> None:
    length = len(one(tiny(), prompt="Hello").token_ids)
    options = {"kind": "echo", "options": {"max_model_len": length + 20}}
    prompt = one(tiny(engine=options, sampling={"max_tokens": wanted}), prompt="Hello")
    assert prompt.sampling is not None
    assert prompt.sampling.max_tokens == left


def test_no_room_for_min_tokens_is_too_long() -> None:
    length = len(one(tiny(), prompt="Hello").token_ids)
    options = {"kind": "echo", "options": {"max_model_len": length + 20}}
    assert error_of(one(tiny(engine=options, sampling={"min_tokens": 21}), prompt="Hello"))[0] == "too_long"


def test_without_any_context_an_answer_has_128_tokens_unless_the_row_says() -> None:
    renderer = Renderer(make_job(), load_model(None))
    limits = [one(renderer, prompt="a", sampling=own).sampling for own in (None, {"max_tokens": 7})]
    assert [limit.max_tokens for limit in limits if limit] == [128, 7]

"""Values stand in the prompt: whose value counts, and the layout that a model reads them in."""

from __future__ import annotations

import math
from typing import Any

import pytest

from batchgen.errors import ModelError
from batchgen.job.schemas import BUILT_IN
from batchgen.records import Row
from tests.support.rendering import ARGUMENTS, BLOCK, CARD, CHATML, TWO, bare, conversation, error_of, one, prompts, tiny

# Values


@pytest.mark.parametrize(
    ("layers", "verbosity"),
    [((), 4), (("job",), 3), (("job", "row"), 2), (("job", "row", "message"), 1), (("job", "row", "message", "sweep"), 0)],
)
def test_a_value_is_the_sweeps_else_the_messages_else_the_rows_else_the_jobs_else_the_default(
    layers: tuple[str, ...], verbosity: int
) -> None:
    attributes: dict[str, Any] = {"schema": "karakuri"}
    attributes |= {"values": {"verbosity": 3}} if "job" in layers else {}
    attributes |= {"sweep": {"verbosity": [0]}} if "sweep" in layers else {}
    message = {"role": "user", "content": "Hello"} | ({"verbosity": 1} if "message" in layers else {})
    row = {"verbosity": 2} if "row" in layers else {}
    prompt = one(tiny(attributes=attributes, input={"path": "x", "messages": "m"}), m=[message], **row)
    assert prompt.attributes == BUILT_IN["karakuri"].defaults | {"verbosity": verbosity}
    assert f"complexity: 4 verbosity: {verbosity} quality: 4" in prompt.text


def test_null_is_not_set() -> None:
    renderer = tiny(
        attributes={"schema": "karakuri", "values": {"verbosity": 3, "humor": None}}, input={"path": "x", "messages": "m"}
    )
    message = {"role": "user", "content": "Hello", "verbosity": None, "humor": None}
    prompt = one(renderer, m=[message], verbosity=None, humor=None)
    assert prompt.attributes == BUILT_IN["karakuri"].defaults | {"verbosity": 3}


def test_each_user_message_of_a_history_carries_its_own_values() -> None:
    messages = conversation()
    messages[1]["verbosity"] = 1
    prompt = one(tiny(input={"path": "x", "messages": "m"}), m=messages, verbosity=2)
    assert prompt.text == CARD.replace("verbosity: 4", "verbosity: 1", 1).replace("verbosity: 4", "verbosity: 2", 1)
    assert prompt.attributes is not None
    assert prompt.attributes["verbosity"] == 2


def test_variants_come_in_the_order_of_the_sweep_with_the_last_attribute_fastest() -> None:
    renderer = tiny(attributes={"schema": "karakuri", "sweep": {"humor": [1, 0], "verbosity": [0, 2]}})
    made = prompts(renderer, prompt="Hello")
    assert [prompt.variant for prompt in made] == [0, 1, 2, 3]
    points = [(p.attributes["humor"], p.attributes["verbosity"]) for p in made if p.attributes]
    assert points == [(1, 0), (1, 2), (0, 0), (0, 2)]


def test_a_renamed_column_gives_the_value_and_the_attributes_own_name_is_data() -> None:
    renderer = tiny(attributes={"schema": "karakuri", "columns": {"verbosity": "wordiness"}})
    prompt = one(renderer, prompt="Hello", wordiness=1, verbosity=99)
    assert prompt.attributes is not None
    assert prompt.attributes["verbosity"] == 1


def test_columns_false_leaves_columns_of_those_names_data() -> None:
    renderer = tiny(attributes={"schema": "karakuri", "columns": False})
    assert one(renderer, prompt="Hello", verbosity="very").attributes == BUILT_IN["karakuri"].defaults


def test_an_integral_float_is_that_integer() -> None:
    prompt = one(tiny(), prompt="Hello", verbosity=2.0)
    assert "verbosity: 2 quality" in prompt.text
    assert prompt.attributes is not None
    assert repr(prompt.attributes["verbosity"]) == "2"


@pytest.mark.parametrize("value", [5, -1, 2.5, math.nan, math.inf, True, "3", [3]])
def test_a_bad_value_is_an_input_error_of_its_row_and_every_variant(value: Any) -> None:
    renderer = tiny(attributes={"schema": "karakuri", "sweep": {"humor": [0, 1]}})
    before, bad, after = (prompts(renderer, n, prompt="Hi", verbosity=v) for n, v in enumerate([1, value, 1]))
    detail = f"in.jsonl:2: attribute verbosity: {value!r} is not an integer 0..4"
    assert [error_of(prompt) for prompt in bad] == [("input", detail)] * 2
    assert [(p.row, p.variant, p.token_ids, p.sampling) for p in bad] == [(1, 0, [], None), (1, 1, [], None)]
    assert [p.text for p in before] == [p.text for p in after]
    assert all(p.error is None and "verbosity: 1" in p.text for p in before + after)


def test_a_bad_value_in_a_message_is_an_input_error() -> None:
    message = {"role": "user", "content": "Hello", "humor": 9}
    assert error_of(one(tiny(input={"path": "x", "messages": "m"}), m=[message]))[0] == "input"


def test_a_row_that_was_not_read_keeps_its_error_in_every_variant() -> None:
    renderer = tiny(attributes={"schema": "karakuri", "sweep": {"humor": [0, 1, 2]}})
    [error] = {prompt.error for prompt in prompts(renderer, prompt=None)}
    again = renderer.prompts(Row(0, None, error), "in.jsonl")
    assert [(p.variant, p.error) for p in again] == [(0, error), (1, error), (2, error)]


# Which layout


def test_a_template_that_reads_template_arguments_is_accepted() -> None:
    renderer = bare(ARGUMENTS, attributes={"schema": TWO})
    assert renderer.layout == "model template"
    assert one(renderer, prompt="Hello", verbosity=2).text == "Hello v=2 h=0"


def test_a_template_that_ignores_one_attribute_is_refused_by_its_name() -> None:
    with pytest.raises(ModelError, match=r"chat template of bare ignores humor: the prompt stays the same"):
        bare("{{ messages[-1]['content'] }} {{ verbosity }}", attributes={"schema": TWO})


def test_a_template_that_ignores_all_falls_to_the_schemas_layout() -> None:
    renderer = bare(CHATML, attributes={"schema": "karakuri"})
    assert renderer.layout == "schema template"
    assert one(renderer, prompt="Hello").text == f"<s>[INST] Hello {BLOCK} [/INST]"


def test_a_template_that_ignores_all_of_a_schema_without_layout_is_refused() -> None:
    with pytest.raises(ModelError, match=r"ignores verbosity, humor: .*model\.chat_template"):
        bare(CHATML, attributes={"schema": TWO})


def test_no_template_and_no_layout_is_refused() -> None:
    with pytest.raises(ModelError, match="ignores verbosity, humor"):
        bare(attributes={"schema": TWO})


@pytest.mark.parametrize(
    ("layout", "first", "last"),
    [
        ({"block": " <{pairs}>"}, "a <verbosity: 0 humor: 0>", "b <verbosity: 0 humor: 0>"),
        (
            {"block": "{pairs}|", "where": "prefix", "pair": "{name}={value}", "separator": ","},
            "verbosity=0,humor=0|a",
            "verbosity=0,humor=0|b",
        ),
        ({"block": " <{pairs}>", "turns": "last"}, "a", "b <verbosity: 0 humor: 0>"),
    ],
)
def test_a_block_stands_beside_user_texts_before_the_models_template(layout: dict[str, Any], first: str, last: str) -> None:
    renderer = bare(CHATML, attributes={"schema": TWO | {"layout": layout}})
    values = {"verbosity": 0, "humor": 0}
    user = [{"role": "user", "content": text, **values} for text in "ab"]
    text, _ = renderer.encode([user[0], {"role": "assistant", "content": "A"}, user[1]])
    assert renderer.layout == "schema block"
    turns = [("user", first), ("assistant", "A"), ("user", last)]
    assert text == "".join(f"<|im_start|>{role}\n{said}<|im_end|>\n" for role, said in turns) + "<|im_start|>assistant\n"


@pytest.mark.parametrize("turns", ["all", "last"])
def test_a_conversation_without_a_user_message_has_no_block(turns: str) -> None:
    layout = {"block": " <{pairs}>", "turns": turns}
    spec = {"path": "x", "messages": "m", "continue_final_message": True}
    prompt = one(
        bare(CHATML, attributes={"schema": TWO | {"layout": layout}}, input=spec), m=[{"role": "assistant", "content": "A"}]
    )
    assert prompt.text == "<|im_start|>assistant\nA"


def test_without_a_schema_no_layout_is_chosen() -> None:
    assert (bare(CHATML).layout, one(bare(CHATML), prompt="Hello").attributes) == ("none", None)


def test_a_conversation_needs_a_chat_template() -> None:
    with pytest.raises(ModelError, match="bare has no chat template, which conversations need"):
        bare(input={"path": "x", "messages": "m"})


def test_a_schemas_template_serves_conversations_of_a_model_without_template() -> None:
    renderer = bare(attributes={"schema": "karakuri"}, input={"path": "x", "messages": "m"})
    assert one(renderer, m=conversation()).text == CARD

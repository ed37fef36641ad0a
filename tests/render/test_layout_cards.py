"""What the models' cards say of their prompts, byte by byte, and which of a model's templates can be steered."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchgen.errors import BadRow, ModelError
from batchgen.job.schemas import BUILT_IN
from tests.support.rendering import BLOCK, CARD, bare, conversation, one, prompts, tiny

PAIRS = BLOCK.removeprefix("[ATTR] ").removesuffix(" [/ATTR]")
CARDS = {
    "karakuri": CARD,
    "karakuri-8x7b-chat": (
        f"<s>[INST] <<SYS>>\nSystem prompt\n<</SYS>>\n\nUser prompt {BLOCK} [/INST]Model response</s>"
        f"[INST] User prompt {BLOCK} [/INST]"
    ),
    "karakuri-8x7b-instruct": (
        "<s><|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>System prompt<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>User prompt<|END_OF_TURN_TOKEN|>"
        f"<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><attributes>{PAIRS}</attributes>Model response<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>User prompt<|END_OF_TURN_TOKEN|>"
        f"<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><attributes>{PAIRS}</attributes>"
    ),
    "steerlm": (
        "<extra_id_0>System\nSystem prompt\n<extra_id_1>User\nUser prompt\n<extra_id_1>Assistant\n"
        "<extra_id_2>quality:4,toxicity:0,humor:0,creativity:0,helpfulness:4,correctness:4,coherence:4,complexity:4,verbosity:4\n"
        "Model response\n<extra_id_1>User\nUser prompt\n<extra_id_1>Assistant\n"
        "<extra_id_2>quality:4,toxicity:0,humor:0,creativity:0,helpfulness:4,correctness:4,coherence:4,complexity:4,verbosity:4\n"
    ),
}
MESSAGES = {"path": "in.jsonl", "messages": "messages"}
# Revision A has the values in its text; revision B reads them from the keys of a user message, with defaults.
HEAD = "{% if messages[0]['role'] == 'system' %}{% set messages = messages[1:] %}{% endif %}{% for m in messages %}"
TURN = "{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + m['content'].strip() + ' ' }}"
TAIL = "{{ ' [/INST]' }}{% else %}{{ ' ' + m['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
REVISION_A = HEAD + TURN + BLOCK + TAIL
REVISION_B = (
    HEAD
    + TURN
    + "[ATTR]"
    + "".join(
        f" {name}: {{{{ m['{name}'] if '{name}' in m else {default} }}}}"
        for name, default in BUILT_IN["karakuri"].defaults.items()
    )
    + " [/ATTR]"
    + TAIL
)
# An instruct model's: answers of the past read their own keys, the one to come reads the template's arguments.
INSTRUCT = (
    "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ '(' ~ m['verbosity'] ~ ')' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>(' ~ verbosity ~ ')' }}{% endif %}"
)


@pytest.mark.parametrize("schema", CARDS)
def test_the_cards_conversation_is_rendered_byte_by_byte(schema: str) -> None:
    text, _ = bare(attributes={"schema": schema}).encode(conversation(**BUILT_IN[schema].defaults))
    assert text == CARDS[schema]


@pytest.mark.parametrize("schema", CARDS)
def test_every_turn_has_its_own_values(schema: str) -> None:
    renderer = bare(attributes={"schema": schema}, input=MESSAGES)
    first, second = {"verbosity": 1, "humor": 2}, {"verbosity": 3}
    said = conversation()
    said[2 if BUILT_IN[schema].of_answers else 1] |= first
    text = one(renderer, messages=[*said[:3], {**said[3], **second}]).text
    steered = CARDS[schema].replace("verbosity: 4", "verbosity: 1", 1).replace("verbosity:4", "verbosity:1", 1)
    steered = steered.replace("humor: 0", "humor: 2", 1).replace("humor:0", "humor:2", 1)
    head, _, tail = steered.rpartition("verbosity: 4" if "verbosity: 4" in steered else "verbosity:4")
    assert text == f"{head}verbosity:{' ' if ': ' in BLOCK and schema != 'steerlm' else ''}3{tail}"


@pytest.mark.parametrize("schema", ["karakuri-8x7b-chat", "steerlm"])
def test_texts_of_models_that_do_not_strip_stay_as_they_are(schema: str) -> None:
    assert " \n Hello \n" in one(bare(attributes={"schema": schema}), prompt=" \n Hello \n").text


@pytest.mark.parametrize("schema", CARDS)
@pytest.mark.parametrize("roles", ["uu", "au", "uaau", "suuu"])
def test_roles_must_alternate(schema: str, roles: str) -> None:
    names = {"u": "user", "a": "assistant", "s": "system"}
    renderer = bare(attributes={"schema": schema}, input=MESSAGES)
    prompt = one(renderer, messages=[{"role": names[role], "content": "x"} for role in roles])
    assert prompt.error is not None
    assert prompt.error.code == "render"
    assert "alternate" in prompt.error.detail


def test_revision_a_ignores_all_values_and_the_schemas_own_layout_is_used() -> None:
    renderer = bare(REVISION_A, attributes={"schema": "karakuri"})
    assert renderer.layout == "schema template"
    assert one(renderer, prompt="Hello", complexity=0).text == f"<s>[INST] Hello {BLOCK} [/INST]".replace(
        "complexity: 4", "complexity: 0"
    )


def test_revision_a_with_a_schema_that_has_no_layout_is_refused_by_name() -> None:
    names = list(BUILT_IN["karakuri"].names)
    with pytest.raises(ModelError, match=r"ignores helpfulness, correctness, .* creativity: the prompt stays the same"):
        bare(REVISION_A, attributes={"schema": {"names": names}})


def test_revision_b_reads_the_keys_of_each_user_message() -> None:
    renderer = bare(REVISION_B, attributes={"schema": "karakuri"}, input=MESSAGES)
    assert renderer.layout == "model template"
    said = [{**conversation()[1], "verbosity": 0}, conversation()[2], conversation()[3]]
    low = BLOCK.replace("verbosity: 4", "verbosity: 0")
    assert one(renderer, messages=said).text == (
        f"<s>[INST] User prompt {low} [/INST] Model response </s><s>[INST] User prompt {BLOCK} [/INST]"
    )


@pytest.mark.parametrize("null", [None, {}])
def test_a_null_never_reaches_revision_b_as_text(null: Any) -> None:
    message = {"role": "user", "content": "Hello", **({"humor": None} if null is None else null)}
    renderer = bare(REVISION_B, attributes={"schema": "karakuri"}, input=MESSAGES)
    assert one(renderer, messages=[message], humor=None).text == f"<s>[INST] Hello {BLOCK} [/INST]"


def test_an_answers_values_reach_a_template_that_reads_them_from_the_answer() -> None:
    renderer = bare(INSTRUCT, attributes={"schema": {"names": ["verbosity"]}}, input=MESSAGES)
    said = [{**message, "verbosity": 1} for message in conversation()[1:3]] + [conversation()[3]]
    text = one(renderer, messages=said, verbosity=3).text
    assert text == "<user>User prompt<assistant>Model response(1)<user>User prompt<assistant>(3)"


# The form of the 8x7B Instruct card: as INSTRUCT, with the defaults where a key or an argument is missing.
NAMES = BUILT_IN["karakuri-8x7b-instruct"].default_values
OF_ANSWERS = (
    "{% macro block(v) %}<attributes>"
    + " ".join(f"{name}: {{{{ v['{name}'] if '{name}' in v else {default} }}}}" for name, default in NAMES.items())
    + "</attributes>{% endmacro %}"
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' }}{% if m['role'] == 'assistant' %}{{ block(m) }}{% endif %}"
    "{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' + block({"
    + ", ".join(f"'{name}': {name}|default({default})" for name, default in NAMES.items())
    + "}) }}{% endif %}"
)


@pytest.mark.parametrize("template", [None, OF_ANSWERS])
def test_earlier_answers_have_their_own_keys_or_the_defaults(template: str | None) -> None:
    attributes = {"schema": "karakuri-8x7b-instruct", "values": {"quality": 2}, "sweep": {"verbosity": [0, 1]}}
    renderer = bare(template, attributes=attributes, input=MESSAGES)
    assert renderer.layout == ("model template" if template else "schema template")
    told = [{**conversation()[1], "coherence": 0}, {**conversation()[2], "humor": 2, "toxicity": None, "quality": 3.0}]
    said = [*told, *conversation()[1:3], {**conversation()[3], "complexity": 1}]
    low, high = prompts(renderer, messages=said, creativity=4)
    for prompt, verbosity in ((low, 0), (high, 1)):
        asked = {"quality": 2, "creativity": 4, "complexity": 1, "verbosity": verbosity}
        wanted = [{**NAMES, "humor": 2, "quality": 3}, {**NAMES}, {**NAMES, **asked}]
        assert re.findall(r"<attributes>(.*?)</attributes>", prompt.text) == [
            " ".join(f"{name}: {value}" for name, value in values.items()) for values in wanted
        ]
        assert prompt.attributes == wanted[-1]


@pytest.mark.parametrize("template", [None, OF_ANSWERS])
def test_an_answer_of_a_scripted_conversation_keeps_the_values_it_was_asked_with(template: str | None) -> None:
    renderer = bare(template, attributes={"schema": "karakuri-8x7b-instruct", "values": {"humor": 4}})
    prompt = one(renderer, prompt="Hello")
    text, _ = renderer.encode(renderer.continued(prompt.messages, {"role": "assistant", "content": "Hi."}, "Again."))
    assert text.count("humor: 4") == 2


@pytest.mark.parametrize("template", [None, OF_ANSWERS])
def test_an_answer_that_is_continued_has_the_values_of_row_and_job(template: str | None) -> None:
    attributes = {"schema": "karakuri-8x7b-instruct", "values": {"humor": 4}}
    renderer = bare(template, attributes=attributes, input={**MESSAGES, "continue_final_message": True})
    text = one(renderer, messages=conversation()[1:3]).text
    assert text.endswith("humor: 4 creativity: 0</attributes>Model response")


def test_a_key_of_an_earlier_answer_is_checked() -> None:
    said = [conversation()[1], {**conversation()[2], "humor": 5}, conversation()[3]]
    prompt = one(bare(attributes={"schema": "karakuri-8x7b-instruct"}, input=MESSAGES), messages=said)
    assert prompt.error is not None
    assert prompt.error.detail == "in.jsonl:1: attribute humor: 5 is not an integer 0..4"


VALUES = st.dictionaries(st.sampled_from(BUILT_IN["karakuri"].names), st.integers(0, 4) | st.none() | st.sampled_from([0.0, 3.0]))
TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40).filter(str.strip)


@st.composite
def conversations(draw: Any) -> list[dict[str, Any]]:
    said = [{"role": "system", "content": draw(TEXTS)}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(0, 3))):
        said += [{"role": "user", "content": draw(TEXTS), **draw(VALUES)}, {"role": "assistant", "content": draw(TEXTS)}]
    return [*said, {"role": "user", "content": draw(TEXTS), **draw(VALUES)}]


OWN = tiny(input=MESSAGES)
OURS = bare(attributes={"schema": "karakuri"}, input=MESSAGES)


@settings(max_examples=500)
@given(said=conversations(), values=VALUES)
def test_our_layout_is_the_models_own_template(said: list[dict[str, Any]], values: dict[str, Any]) -> None:
    assert_same(said, values)


def test_our_layout_is_the_models_own_template_in_ten_thousand_conversations() -> None:
    """Made by dice, which draw them ten times as fast."""
    names, characters = BUILT_IN["karakuri"].names, "ab c\n\t<>[]/_sINST\\\"'{}%#&|é雨睡\u3000\u200b😀0-."
    for seed in range(10_000):
        dice = random.Random(seed)

        def values(dice: random.Random = dice) -> dict[str, Any]:
            return {name: dice.choice([0, 1, 2, 3, 4, None, 0.0, 3.0]) for name in dice.sample(names, dice.randrange(4))}

        def message(role: str, dice: random.Random = dice) -> dict[str, Any]:
            return {"role": role, "content": f"{dice.choice('x雨{')}{''.join(dice.choices(characters, k=dice.randrange(40)))}"}

        said = [message("system")] * dice.randrange(2)
        for _ in range(dice.randrange(4)):
            said += [message("user") | values(), message("assistant")]
        assert_same([*said, message("user") | values()], values())


def assert_same(said: list[dict[str, Any]], values: dict[str, Any]) -> None:
    assert (OWN.layout, OURS.layout) == ("model template", "schema template")
    try:
        first, second = one(OWN, messages=said, **values), one(OURS, messages=said, **values)
    except BadRow:
        raise AssertionError("a row is never raised for") from None
    assert (first.text, first.token_ids, first.attributes) == (second.text, second.token_ids, second.attributes), said
    assert first.error is second.error is None

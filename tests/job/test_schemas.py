"""schemas.py: values, schemas, sweeps, the block layout."""

import pytest

from batchgen.job.schemas import BUILT_IN, Layout, Schema, sweep
from batchgen.render.layout import SCHEMAS, with_block

SCHEMA = Schema(names=["humor", "verbosity"], range={"humor": [-1, 1]}, defaults={"verbosity": 2, "humor": 0})


@pytest.mark.parametrize(("value", "checked"), [(2, 2), (2.0, 2), (0, 0), (4, 4), (4.0, 4), (-0.0, 0)])
def test_an_integral_value_in_range_is_that_integer(value, checked):
    found = SCHEMA.check({"verbosity": value})
    assert found == {"verbosity": checked}
    assert type(found["verbosity"]) is int


@pytest.mark.parametrize(
    "value", [2.5, 7, -1, 5, 4.5, True, False, "high", "2", [2], float("nan"), float("inf"), -float("inf"), 1e300]
)
def test_any_other_value_is_refused_by_name_value_and_range(value):
    with pytest.raises(ValueError, match=r"is not an integer 0\.\.4$") as caught:
        SCHEMA.check({"verbosity": value})
    assert str(caught.value) == f"verbosity: {value!r} is not an integer 0..4"


def test_a_negative_low_end_is_in_range():
    assert SCHEMA.check({"humor": -1}) == {"humor": -1}


def test_none_is_not_set():
    assert SCHEMA.check({"verbosity": None}) == {}
    assert SCHEMA.check({"verbosity": None, "humor": 1}) == {"humor": 1}


def test_zero_is_set():
    assert SCHEMA.check({"verbosity": 0, "humor": 0.0}) == {"humor": 0, "verbosity": 0}


def test_checked_values_stand_in_the_order_of_the_schema():
    assert list(SCHEMA.check({"verbosity": 1, "humor": 1})) == ["humor", "verbosity"]


def test_an_unknown_name_is_refused_with_the_names_there_are():
    with pytest.raises(ValueError, match=r"^wit: no such attribute in schema custom \(humor, verbosity\)$"):
        SCHEMA.check({"wit": 1})


def test_an_unknown_name_is_refused_even_when_it_is_not_set():
    with pytest.raises(ValueError, match=r"^wit: no such attribute"):
        SCHEMA.check({"wit": None})


def test_a_sweep_varies_the_last_attribute_fastest():
    points = sweep({"a": [0, 2], "b": [1, 3]})
    assert points == [{"a": 0, "b": 1}, {"a": 0, "b": 3}, {"a": 2, "b": 1}, {"a": 2, "b": 3}]


def test_a_sweep_keeps_the_order_of_its_values():
    assert sweep({"a": [4, 0, 2]}) == [{"a": 4}, {"a": 0}, {"a": 2}]


def test_no_sweep_is_one_variant_that_sets_nothing():
    assert sweep({}) == [{}]


def test_a_suffix_block_stands_after_the_text():
    layout = Layout(block=" [ATTR] {pairs} [/ATTR]")
    assert with_block("Hi", layout, {"a": 1, "b": 0}) == "Hi [ATTR] a: 1 b: 0 [/ATTR]"


def test_a_prefix_block_stands_before_the_text():
    layout = Layout(block="<{pairs}> ", pair="{name}:{value}", separator=",", where="prefix")
    assert with_block("Hi", layout, {"a": 1, "b": 0}) == "<a:1,b:0> Hi"


def test_braces_in_the_text_are_text():
    assert with_block("{name} {pairs} {0}", Layout(block=" {pairs}"), {"a": 1}) == "{name} {pairs} {0} a: 1"


def test_defaults_and_names_are_in_the_order_of_the_schema():
    assert SCHEMA.names == ["humor", "verbosity"]
    assert list(SCHEMA.default_values.items()) == [("humor", 0), ("verbosity", 2)]


def test_karakuri_is_in_the_order_of_its_model_card():
    first = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
    assert tuple(BUILT_IN["karakuri"].names) == (*first, "quality", "toxicity", "humor", "creativity")


def test_steerlm_is_in_the_order_of_nemo():
    first = ("quality", "toxicity", "humor", "creativity")
    assert tuple(BUILT_IN["steerlm"].names) == (*first, "helpfulness", "correctness", "coherence", "complexity", "verbosity")


@pytest.mark.parametrize("name", ["karakuri", "steerlm"])
def test_a_built_in_schema_defaults_to_helpful_and_harmless(name):
    zero = {name for name, value in BUILT_IN[name].defaults.items() if value == 0}
    assert zero == {"toxicity", "humor", "creativity"}
    assert all(BUILT_IN[name].limits(attribute) == (0, 4) for attribute in BUILT_IN[name].names)


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_schema_has_a_chat_template(name):
    text = (SCHEMAS / f"{name}.jinja").read_text()
    assert "attribute_names" in text or "label" in text

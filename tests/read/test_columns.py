"""Carried columns: input columns get a type, and no value of a row is lost."""

import json
import math

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchgen.read import columns, heads
from batchgen.read.schemas import carried_name
from tests.support.reading import read_all


def inferred(*rows):
    return {name: "json" if kind is None else str(kind) for name, kind in heads.infer_types(rows).items()}


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2], "int64"),
        ([1, None], "int64"),
        ([1, 2.5], "double"),
        ([1.5], "double"),
        ([True, False], "bool"),
        (["a", None], "string"),
        ([True, 1], "json"),
        ([1, "a"], "json"),
        ([None], "json"),
        ([{"a": 1}], "json"),
        ([["a"], ["b", None], []], "list<item: string>"),
        ([[1], [2.5]], "list<item: double>"),
        ([[1], ["a"]], "json"),
        ([[["a"]]], "json"),
        ([[{"a": 1}]], "json"),
        ([[]], "json"),
        ([["a"], "a"], "json"),
    ],
)
def test_a_column_has_the_type_of_its_values_or_is_json_text(values, kind):
    assert inferred(*({"a": value} for value in values)) == {"a": kind}


def test_columns_are_in_order_of_appearance():
    assert list(inferred({"b": 1}, {"a": 1, "b": 2}, {"c": 1})) == ["b", "a", "c"]


def carried(tmp_path, monkeypatch, head, *later, **sections):
    """The carried columns of rows, of which only the first was there to tell the types."""
    monkeypatch.setattr(columns, "HEAD_ROWS", 1)
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (head, *later)))
    return read_all(tmp_path / "in.jsonl", **sections)[1].to_pylist()


def test_what_fits_has_no_extra(tmp_path, monkeypatch):
    row = {"prompt": "a", "n": 1, "tags": ["x"], "meta": {"k": [1]}}
    assert carried(tmp_path, monkeypatch, row) == [row | {"meta": '{"k": [1]}', "input_extra": None}]


@pytest.mark.parametrize(
    ("seen", "misfit"),
    [(1, 1.5), (1, "1"), (1, True), (1, 2**63), (1.5, 2**53 + 1), (1.5, "x"), ("x", 1), (True, 1), (["x"], [1]), (["x"], "x")],
)
def test_a_value_that_does_not_fit_is_carried_in_input_extra(tmp_path, monkeypatch, seen, misfit):
    _, row = carried(tmp_path, monkeypatch, {"prompt": "a", "x": seen}, {"prompt": "b", "x": misfit})
    extra = json.loads(row["input_extra"])
    assert (row["prompt"], row["x"], extra, type(extra["x"])) == ("b", None, {"x": misfit}, type(misfit))


def test_an_unknown_column_is_carried_in_input_extra(tmp_path, monkeypatch):
    _, row = carried(tmp_path, monkeypatch, {"prompt": "a"}, {"prompt": "b", "é": [1, {"k": None}]})
    assert row == {"prompt": "b", "input_extra": '{"é": [1, {"k": null}]}'}


def test_a_column_whose_name_the_output_takes_has_a_prefix(tmp_path, monkeypatch):
    [row] = carried(tmp_path, monkeypatch, {"prompt": "a", "row": 7, "status": "new"})
    assert row == {"prompt": "a", "input_row": 7, "input_status": "new", "input_extra": None}


def test_a_column_that_is_not_kept_is_not_carried_at_all(tmp_path, monkeypatch):
    rows = carried(tmp_path, monkeypatch, {"prompt": "a", "b": 1}, {"prompt": "c", "b": 2}, input={"keep": ["b"]})
    assert [row.get("input_extra") for row in rows] == [None, None]


def test_the_id_column_is_not_carried_twice(tmp_path, monkeypatch):
    [row] = carried(tmp_path, monkeypatch, {"prompt": "a", "id": "1"}, input={"id": "id"})
    assert row == {"prompt": "a", "input_extra": None}


def test_a_column_without_a_name_is_carried(tmp_path, monkeypatch):
    [row] = carried(tmp_path, monkeypatch, {"prompt": "a", "": 1})
    assert row == {"prompt": "a", "": 1, "input_extra": None}


def test_an_unknown_column_without_a_name_is_carried_in_input_extra(tmp_path, monkeypatch):
    _, row = carried(tmp_path, monkeypatch, {"prompt": "a"}, {"prompt": "b", "": 1})
    assert row == {"prompt": "b", "input_extra": '{"": 1}'}


def test_a_bad_row_carries_nothing(tmp_path):
    (tmp_path / "in.jsonl").write_text('{"prompt": "a", "n": 1}\nnonsense\n')
    rows, table = read_all(tmp_path / "in.jsonl")
    assert rows[1].error is not None
    assert table.to_pylist()[1] == {"prompt": None, "n": None, "input_extra": None}


def test_the_notes_of_the_columns_are_in_the_schema_that_an_output_keeps():
    fields = [columns.carried_field("row", pa.int64()), columns.carried_field("é", None), columns.extra_field(True, "id")]
    assert {field.name: field.metadata for field in fields} == {
        "input_row": {b"column": b"row"},
        "é": {b"column": "é".encode(), b"json": b"1"},
        "input_extra": {b"open": b"1", b"consumed": b"id"},
    }


numbers = st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.integers(-3, 3)
scalars = st.none() | numbers | st.text(max_size=5)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner))
rows_of_values = st.lists(st.dictionaries(st.sampled_from(["a", "b", "row", "é", ""]), values), min_size=1, max_size=6)


def same(one, two):
    if isinstance(one, list) and isinstance(two, list):
        return len(one) == len(two) and all(map(same, one, two))
    if isinstance(one, dict) and isinstance(two, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, float) and isinstance(two, float) and math.isnan(one):
        return math.isnan(two)
    return isinstance(one, bool) == isinstance(two, bool) and one == two


def recovered(row, kept, name):
    """The value of an input column from the carried ones."""
    extra = json.loads(row["input_extra"] or "{}")
    if name in extra:
        return extra[name]
    value = row.get(carried_name(name))
    is_json = value is not None and b"json" in kept.field(carried_name(name)).metadata
    return json.loads(value) if is_json else value


@settings(max_examples=150)
@given(rows=rows_of_values, seen=st.integers(1, 3))
def test_every_value_of_a_row_is_recovered_from_the_carried_columns(tmp_path_factory, rows, seen):
    path = tmp_path_factory.mktemp("carried") / "in.jsonl"
    rows = [{"prompt": "p", **row} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "HEAD_ROWS", seen)
        found, table = read_all(path)
    assert all(same(row.data, given) for row, given in zip(found, rows, strict=True))
    for given_row, row in zip(rows, table.to_pylist(), strict=True):
        assert all(same(recovered(row, table.schema, name), value) for name, value in given_row.items())


def test_a_few_odd_values_do_not_make_text_of_a_column() -> None:
    rows = [{"n": number, "tags": [str(number)]} for number in range(1000)]
    rows[7] = {"n": "seven", "tags": {"odd": 1}}
    types = heads.infer_types(rows)
    assert types == {"n": pa.int64(), "tags": pa.list_(pa.string())}
    kept = pa.schema([*(columns.carried_field(name, kind) for name, kind in types.items()), columns.extra_field(True, None)])
    table = columns.conform(rows, kept)
    assert table["n"].to_pylist() == [*range(7), None, *range(8, 1000)]
    assert table["input_extra"][7].as_py() == '{"n": "seven", "tags": {"odd": 1}}'
    assert heads.infer_types([{"n": 1}, {"n": "x"}]) == {"n": None}


def test_integers_of_more_than_64_bits_keep_their_digits() -> None:
    rows = [{"n": 2**64 + number} for number in range(2)]
    types = heads.infer_types(rows)
    assert types == {"n": None}
    kept = pa.schema([columns.carried_field("n", None), columns.extra_field(True, None)])
    assert columns.conform(rows, kept)["n"].to_pylist() == ["18446744073709551616", "18446744073709551617"]

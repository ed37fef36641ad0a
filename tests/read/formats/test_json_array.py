"""The elements of a JSON array become rows as Python's own json reads them, and as JSONL's lines are read."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchgen.errors import InputError
from batchgen.read import reader
from batchgen.read.discover import discover
from batchgen.read.formats.text import array, stream
from tests.support.planning import make, make_job, touch
from tests.support.reading import planned, read_all

texts = st.text(st.sampled_from('\\"[]{},: \n') | st.characters(exclude_categories=["Cs"]), max_size=6)
scalars = texts | st.integers() | st.booleans() | st.none() | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=6
)
rows_of_text = st.lists(st.dictionaries(texts, values, max_size=3) | texts, max_size=6)


@settings(max_examples=300, deadline=None)
@given(
    rows=rows_of_text,
    indent=st.sampled_from([None, 0, 2, "\t"]),
    ascii_only=st.booleans(),
    around=st.sampled_from([("", ""), ("\ufeff", "\n"), (" \r\n", " \r\n\t")]),
    chunk=st.sampled_from([1, 2, 3, 7, 1 << 20]),
    span=st.integers(1, 3),
)
def test_elements_are_those_of_python(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[Any],
    indent: Any,
    ascii_only: bool,
    around: tuple[str, str],
    chunk: int,
    span: int,
) -> None:
    path = tmp_path_factory.mktemp("json") / "in.json"
    rows = [*rows, {"prompt": "last"}]
    path.write_text(around[0] + json.dumps(rows, indent=indent, ensure_ascii=ascii_only) + around[1], newline="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "CHUNK", chunk)
        patch.setattr(array, "PIECE", 5)
        found, _ = read_all(path, spans={"rows": span})
    assert [row.ordinal for row in found] == list(range(len(rows)))
    assert [row.data for row in found] == [{"text": row} if isinstance(row, str) else row for row in rows]


@pytest.mark.parametrize(
    "bad",
    ["1", "null", "[1]", '{"prompt": 1]', '{"prompt": "\\ud800"}', '{"prompt": "a\nb"}', "[" * 300 + "]" * 300, '{"a" "b"}'],
)
def test_a_bad_element_is_one_error_row_between_intact_neighbours(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "in.json"
    path.write_text('[{"prompt": "a"},\n' + bad + '\n, {"prompt": "b"}]')
    before, row, after = read_all(path)[0]
    assert (before.data, after.data) == ({"prompt": "a"}, {"prompt": "b"})
    assert row.error is not None
    assert row.error.detail.startswith(f"{path}:2: ")


def test_an_element_over_the_cap_is_one_error_row(tmp_path: Path) -> None:
    (tmp_path / "in.json").write_text(json.dumps([{"prompt": "a"}, {"prompt": "x" * 500}, {"prompt": "b"}]))
    rows = read_all(tmp_path / "in.json", input={"max_row_bytes": 100})[0]
    assert [row.error and row.error.detail.partition(": ")[2] for row in rows] == [
        None,
        "the element is over input.max_row_bytes (100)",
        None,
    ]


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ('[{"prompt": "a"}, {"prompt": "b"}', "damaged JSON: the array has no end, 2 elements were begun; it is cut short"),
        ('[{"prompt": "a}, {"prompt": "b"}]', "damaged JSON: the array has no end"),
        ('[{"prompt": "a"},]', "no JSON: a comma before the array's end"),
        ('[{"prompt": "a"}, , {}]', "no JSON: a comma without an element before it"),
        ('[,{"prompt": "a"}]', "no JSON: a comma without an element before it"),
        ('[{"prompt": "a"}]\n[{"prompt": "b"}]', "no JSON: text after the array's end, after 0 elements"),
    ],
)
def test_an_array_that_is_none_is_refused_by_name(tmp_path: Path, text: str, cause: str) -> None:
    (tmp_path / "in.json").write_text(text)
    for piece in (1, 1 << 20):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(array, "PIECE", piece)
            with pytest.raises(InputError) as caught:
                make(make_job(tmp_path / "in.json"))
        assert str(caught.value).startswith(f"shard {tmp_path}/in.json: {cause}")


@pytest.mark.parametrize(("text", "form"), [('{"prompt": "a"}\n{"prompt": "b"}\n', "jsonl"), ('\n [{"prompt": "a"}]', "json")])
def test_the_content_of_a_json_file_says_what_it_is(tmp_path: Path, text: str, form: str) -> None:
    (tmp_path / "in.json").write_text(text)
    (tmp_path / "in.json.gz").write_bytes(gzip.compress(text.encode()))
    assert [shard.format for shard in discover(make_job(tmp_path).input)] == [form, form]
    assert {row.data["prompt"] for row in read_all(tmp_path / "in.json.gz")[0] if row.data} <= {"a", "b"}


def test_beside_data_of_another_format_json_files_are_left_out_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "dataset_infos.json").write_text("{}")
    for name in ("b.csv", "a.jsonl"):
        (tmp_path / name).write_text('{"prompt": "a"}\n')
        assert [shard.name for shard in discover(make_job(tmp_path).input)] == [f"{tmp_path}/{name}"]


def test_a_span_of_a_compressed_array_is_read_alone_and_a_changed_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "in.json.gz"
    path.write_bytes(gzip.compress(json.dumps([{"prompt": str(n)} for n in range(20)], indent=1).encode()))
    job, columns, [shard], spans = planned(path, spans={"rows": 3})
    [(_, rows, _)] = reader.read_spans(job, shard, spans[2:3], columns.kept, {"prompt"})
    assert [(row.ordinal, row.data) for row in rows] == [(n, {"prompt": str(n)}) for n in (6, 7, 8)]
    assert make(job, [shard]) == ([], [])
    path.write_bytes(gzip.compress(json.dumps([{"prompt": str(n)} for n in range(21)], indent=1).encode()))
    touch(path)
    with pytest.raises(InputError, match="changed"):
        list(reader.read_spans(job, shard, spans, columns.kept, {"prompt"}))


def test_lines_and_arrays_of_strings_are_the_column_text(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('"one"\n"two"\n')
    (tmp_path / "in.json").write_text('["one", "two"]')
    for name in ("in.jsonl", "in.json"):
        rows, table = read_all(tmp_path / name, input={"prompt": "text"})
        assert [row.messages for row in rows] == [[{"role": "user", "content": word}] for word in ("one", "two")]
        assert table.column("text").to_pylist() == ["one", "two"]

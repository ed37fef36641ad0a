"""What `input.template` prints of a row: its columns, whatever they are called, and nothing that is no text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen.read import reader
from batchgen.records import Row
from tests.support.reading import planned


def rows_of(path: Path, template: str) -> list[Row]:
    job, columns, [shard], spans = planned(path, input={"prompt": None, "template": template})
    return [row for _, rows, _ in reader.read_spans(job, shard, spans, columns.kept, set()) for row in rows]


def text(row: Row) -> str | None:
    return row.messages[0]["content"] if row.messages else None


def write(folder: Path, kind: str, rows: list[dict[str, Any]]) -> Path:
    path = folder / f"in.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_column_wins_over_a_name_of_the_template_language(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, kind, [{"range": "1-5", "namespace": "Talk", "dict": "big", "cycler": "c", "raise_exception": "r"}])
    [row] = rows_of(path, "R={{ range }} N={{ namespace }} D={{ dict }} {{ cycler ~ raise_exception }}")
    assert text(row) == "R=1-5 N=Talk D=big cr"


def test_names_of_the_template_language_are_there_where_no_column_has_them(tmp_path: Path) -> None:
    [row] = rows_of(write(tmp_path, "jsonl", [{"a": "x"}]), "{% for i in range(2) %}{{ a }}{{ i }}{% endfor %}")
    assert text(row) == "x0x1"
    [row] = rows_of(write(tmp_path, "jsonl", [{"a": "x"}]), "{{ a }}{{ range }}")
    assert row.error is not None
    assert row.error.detail.endswith("it prints a value of type function, which is no text")


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize("template", ["Summarise: {{ text }}", "{{ 'Summarise: ' ~ text }}"])
def test_null_and_nan_are_no_text(tmp_path: Path, kind: str, template: str) -> None:
    rows = rows_of(write(tmp_path, kind, [{"id": 0, "text": "fine"}, {"id": 1, "text": None}, {"id": 2}]), template)
    assert [text(row) for row in rows] == ["Summarise: fine", None, None]
    assert all(row.error is not None and row.error.code == "render" for row in rows[1:])
    rows = rows_of(write(tmp_path, kind, [{"text": 1.5}, {"text": float("nan")}]), template)
    assert [text(row) for row in rows] == ["Summarise: 1.5", None]


def test_an_object_is_printed_by_a_filter_only(tmp_path: Path) -> None:
    path = write(tmp_path, "jsonl", [{"tags": ["a", None], "o": {"x": 1}}])
    [row] = rows_of(path, "{{ o | tojson }} {% if tags %}{{ tags | length }}{% endif %}")
    assert text(row) == '{"x": 1} 2'
    for template in ("{{ tags }}", "{{ o }}"):
        [row] = rows_of(path, template)
        assert row.error is not None
        assert row.error.detail == f"{path}:1: input.template: it prints an object or a list: use the filter tojson or join"

"""`input.query`: queries, tables and columns that are refused, and what the refusal names."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen.errors import InputError
from batchgen.plan.query import sql
from tests.support.jobs import fields, refusal
from tests.support.queries import lines, wrong

WRONG = {
    "SELEC 1": "syntax error",
    "SELECT promt AS prompt FROM input": "promt",
    "SELECT * FROM inputs": "Table with name inputs does not exist",
    "SELECT 1; SELECT 2": "not one SELECT",
    "": "not one SELECT",
    "DELETE FROM input": "not one SELECT",
    "COPY (SELECT 1) TO 'x.csv'": "not one SELECT",
    "ATTACH 'x.db'": "not one SELECT",
    "SET threads = 8": "not one SELECT",
    "SELECT * FROM input WHERE lang = 'xx'": "it has no rows",
    "SELECT CAST(prompt AS INT) AS prompt FROM input": "Conversion Error",
    "SELECT prompt, prompt FROM input": "column prompt is there twice",
    "SELECT prompt, INTERVAL 1 DAY AS x FROM input": "column x: type INTERVAL is not allowed; CAST it AS VARCHAR",
    "SELECT prompt, CAST('1' AS VARIANT) AS x FROM input": "column x: type VARIANT is not allowed",
    "SELECT prompt, [CAST(1 AS BIGNUM)] AS x FROM input": "column x: type BIGNUM[] is not allowed",
    "SELECT prompt, union_value(a := 1) AS x FROM input": "column x",
    "SELECT lang FROM input": "input.prompt: no column 'prompt' in the input",
}


@pytest.mark.parametrize("query", WRONG)
def test_a_query_that_is_wrong_is_refused_in_a_line(rows: Path, query: str) -> None:
    said = wrong(rows, query)
    assert WRONG[query] in said
    assert "\n" not in said


def test_a_wrong_name_is_found_before_the_rows_are_read(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql, "_fill", lambda *_: pytest.fail("rows are read"))
    assert "promt" in wrong(rows, "SELECT promt FROM input")


@pytest.mark.parametrize(
    "source",
    [
        "read_csv('{0}')",
        "read_text('{0}')",
        "'{0}'",
        "glob('{0}')",
        "read_parquet('https://example.org/x.parquet')",
        "read_json('s3://bucket/x.json')",
        "duckdb_secrets()",
        "EXACT",
    ],
)
def test_a_query_opens_nothing_but_its_tables(rows: Path, source: str) -> None:
    said = wrong(rows, f"SELECT * FROM {source.format(rows)}")
    assert "disabled by configuration" in said or "does not exist" in said


def test_columns_that_differ_in_case_only_are_refused(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(lines({"Prompt": "a", "prompt": "b"}))
    assert "columns Prompt and prompt" in wrong(tmp_path / "in.jsonl", "FROM input", InputError)


@pytest.mark.parametrize("kind", [pa.float16(), pa.list_(pa.decimal256(60, 2))])
def test_columns_that_duckdb_has_no_type_for_are_refused(tmp_path: Path, kind: pa.DataType) -> None:
    pq.write_table(pa.table({"prompt": ["a"], "x": pa.nulls(1, kind)}), tmp_path / "in.parquet")
    assert "input: column x: DuckDB has no" in wrong(tmp_path / "in.parquet", "FROM input", InputError)


def test_a_missing_table_is_named(rows: Path) -> None:
    assert "input.tables.labels nowhere.csv: no such file" in wrong(
        rows, "FROM input", InputError, input={"tables": {"labels": "nowhere.csv"}}
    )


def test_a_list_that_memory_does_not_hold_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql, "MEMORY_BYTES", 30 * 2**20)
    (tmp_path / "in.jsonl").write_text(lines(*[{"n": n} for n in range(1000)]))
    said = wrong(tmp_path / "in.jsonl", "SELECT list(md5(CAST(a.n * b.n AS VARCHAR))) AS prompt FROM input a, input b")
    assert "over 31,457,280 bytes of memory" in said


def test_duckdb_is_named_where_it_is_missing(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    assert "pip install 'batchgen[query]'" in wrong(rows, "FROM input")


@pytest.mark.parametrize(
    ("given", "cause"),
    [
        ({"tables": {"a": "a.csv"}}, "tables are those of a query"),
        ({"query": "FROM input", "tables": {"Input": "a.csv"}}, "choose another name"),
        ({"query": "FROM input", "tables": {"a-b": "a.csv"}}, "should match pattern"),
        ({"query": "FROM input", "format": "openai-batch"}, "set format: jsonl"),
    ],
)
def test_fields_that_do_not_fit_a_query_are_refused(given: dict[str, Any], cause: str) -> None:
    assert cause in refusal(fields(input=given))

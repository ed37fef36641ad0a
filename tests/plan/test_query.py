"""`input.query`: what a query finds in an input of any format, exactly, and what is said of one that is wrong."""

from __future__ import annotations

import datetime
import decimal
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen.check import check
from batchgen.errors import InputError, JobError
from batchgen.job.job import Job
from batchgen.plan.query import sql
from batchgen.prepare import prepare
from tests.support.finished import Finished
from tests.support.jobs import fields, refusal
from tests.support.reading import read_prepared as read

ROWS = [{"id": n, "lang": "en" if n % 2 else "ja", "prompt": f"say {n}"} for n in range(100)]


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    (tmp_path / "rows.jsonl").write_text(lines(*ROWS))
    return tmp_path / "rows.jsonl"


def job_of(path: Path, query: str, output: str | None = None, **given: Any) -> Job:
    of_input = {"path": str(path), "query": query, "prompt": "prompt", **given.pop("input", {})}
    of_input = {name: value for name, value in of_input.items() if value is not None}
    out = {"path": output or str(path.parent / "out")}
    return Job.parse({"input": of_input, "engine": {"kind": "echo"}, "output": out, **given})


def asked(path: Path, query: str, **given: Any) -> list[dict[str, Any]]:
    """The carried columns of what a query finds."""
    return read(prepare(job_of(path, query, **given)))[1]


def wrong(path: Path, query: str, error: type[Exception] = JobError, **given: Any) -> str:
    with pytest.raises(error) as caught:
        prepare(job_of(path, query, **given))
    return str(caught.value)


def test_a_query_filters_orders_and_makes_columns(rows: Path) -> None:
    query = "SELECT id + 1 AS number, upper(prompt) AS prompt FROM input WHERE lang = 'en' ORDER BY id DESC LIMIT 2"
    made = prepare(job_of(rows, query))
    laid_out, carried = read(made)
    assert carried == [{"number": 100, "prompt": "SAY 99"}, {"number": 98, "prompt": "SAY 97"}]
    assert [row.messages for row in laid_out] == [[{"role": "user", "content": row["prompt"]}] for row in carried]


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM input USING SAMPLE 10 (reservoir, 42)",
        "SELECT * FROM input TABLESAMPLE reservoir(10) REPEATABLE (42)",
        "SELECT lang, count(*) AS n, string_agg(prompt, ',') AS prompt FROM input GROUP BY lang",
        "SELECT DISTINCT ON (id % 7) * FROM input",
    ],
)
def test_the_same_query_finds_the_same_rows_in_the_same_order(rows: Path, query: str) -> None:
    first = asked(rows, query)
    assert first
    assert [asked(rows, query) for _ in range(3)] == [first] * 3


def test_tables_are_joined_whatever_their_formats(rows: Path) -> None:
    (rows.parent / "labels.csv").write_text("id,score\n1,4\n2,0\n3,4\n")
    pq.write_table(pa.table({"score": [4], "word": ["best"]}), rows.parent / "words.parquet")
    tables = {"labels": str(rows.parent / "labels.csv"), "Words": [str(rows.parent / "words.parquet")]}
    query = "SELECT prompt, word FROM input JOIN labels USING (id) JOIN Words ON labels.score = Words.score ORDER BY id"
    query = query.replace("USING (id)", "ON input.id = CAST(labels.id AS INT)").replace(
        "labels.score", "CAST(labels.score AS INT)"
    )
    query = query.replace("ORDER BY id", "ORDER BY input.id")
    assert asked(rows, query, input={"tables": tables}) == [{"prompt": f"say {n}", "word": "best"} for n in (1, 3)]


def test_the_ok_rows_of_another_job_are_a_table(tmp_path: Path) -> None:
    output = Finished(tmp_path)
    query = "SELECT row, sample, status, response AS prompt FROM input ORDER BY row, sample"
    made = prepare(job_of(tmp_path / "out", query, output=str(tmp_path / "next")))
    found = read(made)[1]
    assert len(found) == output.status()["rows_ok"]
    assert {row["input_status"] for row in found} == {"ok"}
    assert made.upstream == (output.output.job.fingerprint,)


def test_messages_are_built_and_messages_of_jsonl_stay_what_they_are(tmp_path: Path) -> None:
    talk = [{"role": "system", "content": "short"}, {"role": "user", "content": "hi \u2028 ü"}]
    (tmp_path / "rows.jsonl").write_text(lines({"q": "why?", "messages": talk}))
    built = "SELECT [{role: 'system', content: 'short'}, {role: 'user', content: q}] AS messages FROM input"
    [row] = read(prepare(job_of(tmp_path / "rows.jsonl", built, input={"prompt": None, "messages": "messages"})))[0]
    assert row.messages == [talk[0], {"role": "user", "content": "why?"}]
    kept = prepare(job_of(tmp_path / "rows.jsonl", "FROM input", input={"prompt": None, "messages": "messages"}))
    [row], [carried] = read(kept)
    assert row.messages == talk
    assert json.loads(carried["input_messages"]) == talk
    open_job = Job.parse(
        {
            "input": {"path": str(tmp_path / "rows.jsonl"), "query": "SELECT messages FROM input"},
            "output": "o",
            "engine": {"kind": "echo"},
        }
    )
    assert prepare(open_job).stated.input.messages == "messages"


def test_calls_of_tools_in_json_reach_the_prompt(tmp_path: Path) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    talk = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "b", "tool_call_id": "c"},
    ]
    (tmp_path / "rows.jsonl").write_text(lines({"messages": talk}))
    [row], _ = read(prepare(job_of(tmp_path / "rows.jsonl", "FROM input", input={"prompt": None, "messages": "messages"})))
    assert row.error is None
    assert row.messages is not None
    assert row.messages[1]["tool_calls"][0]["function"]["name"] == "f"


def test_elements_of_lists_are_rows_of_what_a_query_finds(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(lines({"t": "a", "qs": [{"q": "1"}, {"q": "2"}]}, {"t": "b", "qs": [{"q": "3"}]}))
    found = read(prepare(job_of(tmp_path / "rows.jsonl", "FROM input ORDER BY t DESC", input={"prompt": "q", "each": "qs"})))[0]
    assert [row.messages[0]["content"] for row in found if row.messages] == ["3", "1", "2"]


EXACT = {
    "big": pa.array([2**64 - 1], pa.uint64()),
    "decimal": pa.array([decimal.Decimal("12345678901234567890.123456789")], pa.decimal128(38, 9)),
    "nanoseconds": pa.array([1_700_000_000_123_456_789], pa.timestamp("ns")),
    "zoned": pa.array([-1], pa.timestamp("us", "UTC")),
    "date": pa.array([datetime.date(1, 1, 1)]),
    "bytes": pa.array([b"\xff\x00"]),
    "null_text": pa.array(["a\0b"]),
    "list": pa.array([[1, None]]),
    "struct": pa.array([{"a": {"b": ["x"]}}]),
    "map": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
    "nothing": pa.nulls(1, pa.int32()),
    "small": pa.array([-(2**-1074)]),
}


def test_values_of_tables_stay_exact(tmp_path: Path) -> None:
    table = pa.table({"prompt": ["a"], **EXACT})
    pq.write_table(table, tmp_path / "in.parquet")
    made = prepare(job_of(tmp_path / "in.parquet", "SELECT * FROM input"))
    [found] = read(made)[1]
    assert found == table.to_pylist()[0]


def test_integers_of_any_size_in_jsonl_stay_exact(tmp_path: Path) -> None:
    huge = 10**30 + 1
    (tmp_path / "in.jsonl").write_text(lines({"prompt": "a", "n": huge, "deep": {"n": huge}}))
    query = "SELECT prompt, n, deep, CAST(n AS VARCHAR) AS text, CAST(deep->>'$.n' AS HUGEINT) + 1 AS more FROM input"
    [found] = asked(tmp_path / "in.jsonl", query)
    assert found["text"] == str(huge)
    assert found["more"] == huge + 1
    assert (json.loads(found["n"]), json.loads(found["deep"])) == (huge, {"n": huge})


def test_values_that_do_not_fit_their_column_are_in_the_extra_one(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(lines(*[{"prompt": "a", "n": n} for n in range(200)], {"prompt": "a", "n": "text"}))
    found = asked(tmp_path / "in.jsonl", "SELECT n, prompt, input_extra FROM input ORDER BY n")
    assert [(row["n"], row["input_extra_2"]) for row in found if row["n"] is None] == [(None, '{"n": "text"}')]


def test_rows_that_cannot_be_read_are_told_and_left_out_up_to_the_limit(rows: Path) -> None:
    rows.write_text(rows.read_text() + "no json\n")
    made = prepare(job_of(rows, "SELECT prompt FROM input"))
    assert len(read(made)[0]) == len(ROWS)
    assert made.asked is not None
    assert list(made.asked.answer.notes) == made.notes == check(made).warnings
    assert "1 of 101 rows of input cannot be read" in made.notes[0]
    assert "rows.jsonl:101: invalid JSON" in made.notes[0]
    rows.write_text(rows.read_text() + "no json\n")
    assert "limits.errors" in wrong(rows, "SELECT prompt FROM input", InputError)


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


def test_columns_with_any_names_are_columns_of_the_table(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(lines({'a "b"': 1, "select": 2, "messages": "x", "id": 4}))
    found = asked(
        tmp_path / "in.jsonl", 'SELECT "a ""b""" + "select" AS n, messages AS prompt, id FROM input', input={"id": "id"}
    )
    assert found == [{"n": 3, "prompt": "x"}]
    for odd in ("", "a\0b"):
        (tmp_path / "in.jsonl").write_text(lines({odd: 1, "prompt": "a"}))
        assert f"a column {odd!r}, which SQL cannot name" in wrong(tmp_path / "in.jsonl", "FROM input", InputError)


@pytest.mark.parametrize("kind", [pa.float16(), pa.list_(pa.decimal256(60, 2))])
def test_columns_that_duckdb_has_no_type_for_are_refused(tmp_path: Path, kind: pa.DataType) -> None:
    pq.write_table(pa.table({"prompt": ["a"], "x": pa.nulls(1, kind)}), tmp_path / "in.parquet")
    assert "input: column x: DuckDB has no" in wrong(tmp_path / "in.parquet", "FROM input", InputError)


def test_durations_are_cast(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["a"], "x": pa.array([5], pa.duration("us"))}), tmp_path / "in.parquet")
    assert "column x: type INTERVAL is not allowed; CAST it" in wrong(tmp_path / "in.parquet", "FROM input")
    assert asked(tmp_path / "in.parquet", "SELECT prompt, CAST(x AS VARCHAR) AS x FROM input") == [
        {"prompt": "a", "x": "00:00:00.000005"}
    ]


def test_a_missing_table_is_named(rows: Path) -> None:
    assert "input.tables.labels nowhere.csv: no such file" in wrong(
        rows, "FROM input", InputError, input={"tables": {"labels": "nowhere.csv"}}
    )


def test_what_a_query_finds_is_written_in_bounded_pieces(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql, "PIECE_BYTES", 1)
    monkeypatch.setattr(sql, "GROUP_BYTES", 1)
    query = "SELECT prompt FROM input, range(100) ORDER BY id"
    made = prepare(job_of(rows, query))
    assert len(made.found) > 2
    assert len({shard.name for shard in made.found}) == len(made.found)
    assert [row["prompt"] for row in read(made)[1]] == [row["prompt"] for row in ROWS for _ in range(100)]


def test_more_rows_than_memory_holds_wait_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql, "MEMORY_BYTES", 100 * 2**20)
    (tmp_path / "in.jsonl").write_text(lines(*[{"n": n} for n in range(1000)]))
    text = "repeat(md5(CAST(a.n * 1000 + b.n AS VARCHAR)), 10)"
    query = f"SELECT prompt FROM (SELECT {text} AS prompt FROM input a, input b) ORDER BY prompt LIMIT 400000 OFFSET 1"
    made = prepare(job_of(tmp_path / "in.jsonl", query))
    assert made.asked is not None
    assert sum(piece.rows for piece in made.asked.answer.pieces) == 400_000


def test_a_list_that_memory_does_not_hold_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql, "MEMORY_BYTES", 30 * 2**20)
    (tmp_path / "in.jsonl").write_text(lines(*[{"n": n} for n in range(1000)]))
    said = wrong(tmp_path / "in.jsonl", "SELECT list(md5(CAST(a.n * b.n AS VARCHAR))) AS prompt FROM input a, input b")
    assert "over 31,457,280 bytes of memory" in said


def test_nothing_is_left_of_a_query_that_is_only_looked_at(rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    made = prepare(job_of(rows, "SELECT prompt FROM input"))
    assert {path.suffix for path in (tmp_path / "tmp").glob("*/*")} == {".parquet"}
    del made
    assert list((tmp_path / "tmp").iterdir()) == []
    wrong(rows, "SELECT CAST(prompt AS INT) AS prompt FROM input")
    assert list((tmp_path / "tmp").iterdir()) == []


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

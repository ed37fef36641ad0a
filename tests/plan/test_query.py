"""`input.query`: what a query finds in an input of any format, exactly, and what it leaves on disk."""

from __future__ import annotations

import datetime
import decimal
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen.check import check
from batchgen.errors import InputError
from batchgen.job.job import Job
from batchgen.plan.query import sql
from batchgen.prepare import prepare
from tests.support.finished import Finished
from tests.support.queries import ROWS, asked, job_of, lines, wrong
from tests.support.reading import read_prepared as read


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


def test_columns_with_any_names_are_columns_of_the_table(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(lines({'a "b"': 1, "select": 2, "messages": "x", "id": 4}))
    found = asked(
        tmp_path / "in.jsonl", 'SELECT "a ""b""" + "select" AS n, messages AS prompt, id FROM input', input={"id": "id"}
    )
    assert found == [{"n": 3, "prompt": "x"}]
    for odd in ("", "a\0b"):
        (tmp_path / "in.jsonl").write_text(lines({odd: 1, "prompt": "a"}))
        assert f"a column {odd!r}, which SQL cannot name" in wrong(tmp_path / "in.jsonl", "FROM input", InputError)


def test_durations_are_cast(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["a"], "x": pa.array([5], pa.duration("us"))}), tmp_path / "in.parquet")
    assert "column x: type INTERVAL is not allowed; CAST it" in wrong(tmp_path / "in.parquet", "FROM input")
    assert asked(tmp_path / "in.parquet", "SELECT prompt, CAST(x AS VARCHAR) AS x FROM input") == [
        {"prompt": "a", "x": "00:00:00.000005"}
    ]


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


def test_nothing_is_left_of_a_query_that_is_only_looked_at(rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    made = prepare(job_of(rows, "SELECT prompt FROM input"))
    assert {path.suffix for path in (tmp_path / "tmp").glob("*/*")} == {".parquet"}
    del made
    assert list((tmp_path / "tmp").iterdir()) == []
    wrong(rows, "SELECT CAST(prompt AS INT) AS prompt FROM input")
    assert list((tmp_path / "tmp").iterdir()) == []

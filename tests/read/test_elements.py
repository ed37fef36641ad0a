"""`input.each`: rows that are elements of lists in rows, planned before they are read, each exactly once."""

from __future__ import annotations

import datetime
import decimal
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchgen.errors import InputError, JobError, OutputConflict
from batchgen.job.job import Job
from batchgen.output import plan_file
from batchgen.output.store import open_store
from batchgen.plan import plan
from batchgen.prepare import prepare
from batchgen.read import reader
from batchgen.read.columns import look
from batchgen.read.discover import discover
from batchgen.read.each.elements import cuts
from batchgen.read.each.expand import elements
from batchgen.records import Row, Shard, Span
from tests.support.finished import Finished
from tests.support.jobs import fields, refusal
from tests.support.planning import freeze, make_job
from tests.support.replicas import answered

EACH = {"prompt": "q", "each": "qs"}
SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "Tea",
            "paragraphs": [
                {
                    "context": "Tea is hot.",
                    "qas": [
                        {
                            "id": "1",
                            "question": "Is it?",
                            "answers": [{"text": "hot", "answer_start": 7}],
                            "is_impossible": False,
                        },
                        {"id": "2", "question": "And cold?", "answers": [], "is_impossible": True},
                    ],
                },
                {"context": "Nobody asks.", "qas": []},
            ],
        },
        {"title": "Cats", "paragraphs": [{"context": "Cats sleep.", "qas": [{"id": "3", "question": "When?", "answers": []}]}]},
    ],
}


def write(path: Path, rows: list[Any]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=3)
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def make(path: Path, known: list[Shard] | None = None, **sections: Any) -> tuple[Job, list[Shard], list[Span], pa.Schema]:
    sections["input"] = EACH | sections.get("input", {})
    job = make_job(path, **sections)
    found = discover(job.input)
    columns = look(job, found)
    return job, *plan.make_plan(job, found, columns, known or []), columns.kept


def read(job: Job, shard: Shard, spans: list[Span], kept: pa.Schema) -> tuple[list[Row], pa.Table]:
    """The rows and carried columns of spans that are read in one pass."""
    parts = list(reader.read_spans(job, shard, spans, kept, set()))
    assert [span for span, _, _ in parts] == spans
    assert [len(rows) for _, rows, _ in parts] == [table.num_rows for _, _, table in parts] == [span.rows for span in spans]
    return [row for _, rows, _ in parts for row in rows], pa.concat_tables([table for _, _, table in parts])


def questions(count: int, start: int = 0) -> list[dict[str, str]]:
    return [{"q": f"question {start + number}"} for number in range(count)]


def test_squads_questions_are_rows_with_their_paragraph(tmp_path: Path) -> None:
    path = write(tmp_path / "dev-v2.0.json", [SQUAD])
    source = {
        "path": str(path),
        "format": "jsonl",
        "each": "data.paragraphs.qas",
        "template": "{{ context }}\n{{ question }}",
        "id": "id",
    }
    rows, receipt = answered(tmp_path, [SQUAD], input=source)
    assert [(row["id"], row["row"], row["title"], row["messages"][0]["content"]) for row in rows] == [
        ("1", 0, "Tea", "Tea is hot.\nIs it?"),
        ("2", 1, "Tea", "Tea is hot.\nAnd cold?"),
        ("3", 2, "Cats", "Cats sleep.\nWhen?"),
    ]
    assert [row["is_impossible"] for row in rows] == [False, True, None]
    assert json.loads(rows[0]["answers"]) == [{"text": "hot", "answer_start": 7}]
    assert {row["version"] for row in rows} == {"v2.0"}
    assert receipt.counts.ok == 3


@pytest.mark.parametrize(
    ("data", "path", "made"),
    [
        ({"a": [{"b": 1}, {"b": 2}], "c": 3}, "a", [{"c": 3, "b": 1}, {"c": 3, "b": 2}]),
        ({"a": ["x", None, 5]}, "a", [{"a": "x"}, {"a": None}, {"a": 5}]),
        ({"a": {"b": ["x"], "c": 1}, "c": 0}, "a.b", [{"c": 1, "b": "x"}]),
        ({"a": "x"}, "a", [{"a": "x"}]),
        ({"a": [], "b": 1}, "a", []),
        ({"a": None}, "a.b", []),
        ({"a": [{"a": [{"a": 1}]}]}, "a.a", [{"a": 1}]),
    ],
)
def test_an_element_has_its_own_keys_and_those_above_it(data: Any, path: str, made: Any) -> None:
    assert [one.data for one in elements(data, path)] == made


@pytest.mark.parametrize(
    ("data", "path", "causes"),
    [
        ({"b": 1}, "a", ["input.each: no 'a'"]),
        ({"a": [{"b": ["x"]}, {}, 5]}, "a.b", [None, "input.each: no 'b'", "input.each: a must hold structs, not int"]),
        ({"a": "x"}, "a.b", ["input.each: a must hold structs, not str"]),
    ],
)
def test_where_an_element_should_be_and_is_not_there_is_an_error_beside_its_neighbours(data: Any, path: str, causes: Any) -> None:
    assert [one.cause for one in elements(data, path)] == causes


@st.composite
def documents(draw: st.DrawFn) -> list[dict[str, Any]]:
    counts = draw(st.lists(st.integers(0, 12), min_size=1, max_size=9))
    return [{"name": f"d{number}", "qs": questions(count, 100 * number)} for number, count in enumerate(counts)]


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "parquet"])
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(documents(), st.integers(1, 9), st.sampled_from([1, 60, 2**20]))
def test_every_element_is_planned_and_read_once(tmp_path: Path, kind: str, rows: list[Any], most: int, size: int) -> None:
    if not any(row["qs"] for row in rows):
        rows.append({"name": "last", "qs": questions(1, 9000)})
    path = write(tmp_path / f"in.{kind.removesuffix('.gz')}", rows)
    if kind.endswith(".gz"):
        import gzip

        packed = tmp_path / "in.jsonl.gz"
        packed.write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
        path = packed
    job, [shard], spans, kept = make(path, spans={"rows": most, "bytes": size})
    wanted = [one["q"] for row in rows for one in row["qs"]]
    assert [span.start for span in spans] == [0, *(span.end for span in spans[:-1])]
    assert (spans[-1].end, shard.rows) == (len(wanted), len(wanted))
    assert max(span.rows for span in spans) <= most
    found, carried = read(job, shard, spans, kept)
    assert [row.ordinal for row in found] == list(range(len(wanted)))
    assert [row.messages and row.messages[0]["content"] for row in found] == wanted
    assert carried["name"].to_pylist() == [row["name"] for row in rows for _ in row["qs"]]
    alone = [row for span in spans for row in read(job, shard, [span], kept)[0]]
    assert alone == found, "a span is read by itself as with its neighbours"
    if some := spans[1::2]:
        back = [row for span in some for row in found[span.start : span.end]]
        assert read(job, shard, some, kept)[0] == back, "and with others missing between"


@given(st.lists(st.integers(0, 50)), st.integers(1, 7), st.integers(1, 80))
def test_a_piece_is_within_its_caps_or_one_element(sizes: list[int], rows: int, most: int) -> None:
    pieces = list(cuts(sizes, rows, most))
    assert sum(pieces) == len(sizes)
    at = 0
    for count in pieces:
        assert 1 <= count <= rows
        assert count == 1 or sum(sizes[at : at + count]) <= most
        at += count


def test_the_plan_in_the_output_is_the_plan(tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", [{"qs": questions(5)}, {"qs": []}, {"qs": questions(2, 5)}])
    job = make_job(path, input=EACH, spans={"rows": 2})
    store = open_store(str(tmp_path / "out"))
    made = freeze(job, store)
    again, _ = plan_file.load_plan(store, 1)
    assert again.spans == made.spans
    assert [(span.start, span.rows, span.within and span.within.skip) for span in again.spans] == [
        (0, 2, 0),
        (2, 2, 2),
        (4, 1, 4),
        (5, 2, 0),
    ]
    assert freeze(job, store).spans == made.spans, "the same input adds nothing"


def test_an_input_that_grew_adds_the_elements_of_its_new_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", [{"qs": questions(3)}])
    store = open_store(str(tmp_path / "out"))
    job = make_job(path, input=EACH)
    freeze(job, store)
    write(path, [{"qs": questions(3)}, {"qs": questions(2, 3)}, {"qs": None}])
    [old, new] = freeze(job, store).spans
    assert (old.start, old.end, new.start, new.end) == (0, 3, 3, 5)
    _, columns = job, look(job, discover(job.input))
    shard = plan_file.load_plan(store, 1)[0].shards[0]
    assert shard.rows == 5
    [(_, rows, _)] = reader.read_spans(job, shard, [new], columns.kept, set())
    assert [row.messages and row.messages[0]["content"] for row in rows] == ["question 3", "question 4"]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_an_input_that_changed_is_refused(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / f"in.{kind}", [{"qs": questions(3)}, {"qs": questions(2)}])
    job, [shard], spans, kept = make(path)
    write(path, [{"qs": questions(3)}, {"qs": questions(2, 1)}])
    with pytest.raises(InputError, match="it changed"):
        read(job, shard, spans, kept)
    with pytest.raises(OutputConflict):
        make(path, [shard])


def test_a_line_that_cannot_be_read_is_one_row_and_a_wrong_element_another(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"qs": [{"q": "a"}, {"p": "b"}]}\n\nno json\n{"other": 1}\n{"qs": [{"q": "c"}]}\n')
    job, [shard], spans, kept = make(path)
    rows, _ = read(job, shard, spans, kept)
    assert [row.error and row.error.detail.removeprefix(str(path)) for row in rows] == [
        None,
        ":2: q is missing",
        ":3: invalid JSON: invalid literal, expected 'null': line 1 column 1 (char 0)",
        ":4: input.each: no 'qs'",
        None,
    ]
    assert shard.rows == 5


def test_what_stands_above_many_elements_is_held_a_few_times_only(tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", [{"text": "x" * 1000, "qs": questions(40)}])
    _, _, spans, _ = make(path, spans={"rows": 40, "bytes": 5000})
    assert {span.rows for span in spans} == {4}
    job, [shard], spans, kept = make(path, input={"max_row_bytes": 2100}, spans={"rows": 40})
    assert all(row.error is None for row in read(job, shard, spans, kept)[0])


def test_an_element_over_the_cap_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"qs": [[{"q": "a"}, {"q": "b" * 500}]]}), path)
    job, [shard], spans, kept = make(path, input={"max_row_bytes": 600})
    write(path, [{"text": "t" * 300, "qs": [{"q": "a"}, {"q": "b" * 290}]}])
    job, [shard], spans, kept = make(path, input={"max_row_bytes": 605})
    rows, _ = read(job, shard, spans, kept)
    assert [row.error and row.error.detail for row in rows] == [None, f"{path}:1: the row is over input.max_row_bytes (605)"]


def test_values_of_a_table_are_carried_as_json_has_them(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    inner = {"q": "a", "day": datetime.date(2026, 1, 2), "price": decimal.Decimal("1.50"), "raw": b"\x00"}
    pq.write_table(pa.table({"at": [datetime.datetime(2026, 1, 2, 3)], "qs": [[inner]]}), path)
    job, [shard], spans, kept = make(path)
    _, carried = read(job, shard, spans, kept)
    [row] = carried.drop_columns(["input_extra"]).to_pylist()
    assert row == {"at": "2026-01-02T03:00:00", "q": "a", "day": "2026-01-02", "price": "1.50", "raw": "AA=="}


def test_a_path_that_leads_nowhere_is_refused_before_anything_runs(tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", [{"qs": questions(3)}])
    with pytest.raises(JobError, match=r"^input\.each questions: nothing there in the first rows"):
        prepare(make_job(path, input=EACH | {"each": "questions"}))
    with pytest.raises(JobError, match=r"^input\.prompt: no column 'p' in the input; its columns are q"):
        prepare(make_job(path, input=EACH | {"prompt": "p"}))
    assert "input.each" in refusal(fields(input={"each": "a..b"}))


def test_an_output_of_elements_is_proved_and_retried(tmp_path: Path) -> None:
    asked = [*questions(3), {"q": None}, {"q": "forbidden"}, {"q": "last"}]
    lines = [json.dumps({"name": "a", "qs": asked[:4]}), json.dumps({"name": "b", "qs": asked[4:]})]
    source = {"path": str(tmp_path / "in.jsonl"), **EACH}
    done = Finished(tmp_path, lines, input=source, spans={"rows": 2})
    output = done.output
    assert output.verify().problems == []
    rows = list(output.rows())
    assert [(row["row"], row["sample"]) for row in rows] == [(row, sample) for row in range(6) for sample in range(2)]
    assert [row["status"] for row in rows[::2]] == ["ok", "ok", "ok", "error", "error", "ok"]
    assert [row["name"] for row in rows[::2]] == ["a"] * 4 + ["b"] * 2
    assert output.retry(["engine_rejected"]) == 2
    done.mend()
    assert done.run() == 2, "the failed element alone is run again"
    assert [row["status"] for row in done.output.rows()].count("error") == 2
    assert done.output.verify().problems == []

"""CSV becomes rows as Python's own csv reads them; a bad row is one error row, and its neighbours are as they were."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from batchgen.errors import InputError, JobError, OutputConflict
from batchgen.job.job import Job
from batchgen.read import reader
from batchgen.read.formats.text import stream
from batchgen.records import Row
from tests.support.finished import Finished
from tests.support.planning import make, make_job, touch
from tests.support.reading import planned, read_all

PACK = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor().compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


def read(path: Path, content: bytes | str, **fields: Any) -> list[Row]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_all(path, input=fields)[0]


def causes(rows: list[Row]) -> list[str | None]:
    return [row.error and row.error.detail.partition(": ")[2] for row in rows]


cells = st.text(st.sampled_from('a",;\t\n\r é\u3000\x00') | st.characters(exclude_categories=["Cs"]), max_size=8)


def tables(columns: int) -> st.SearchStrategy[list[list[str]]]:
    return st.lists(st.lists(cells, min_size=columns, max_size=columns), max_size=8)


@settings(max_examples=300, deadline=None)
@given(
    rows=st.integers(1, 3).flatmap(tables),
    delimiter=st.sampled_from(",;\t|"),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    end=st.sampled_from(["\n", "\r\n"]),
    mark=st.booleans(),
    chunk=st.sampled_from([1, 2, 3, 7, 1 << 20]),
    span=st.integers(1, 3),
)
def test_what_python_writes_is_read_cell_by_cell(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[list[str]],
    delimiter: str,
    quoting: Any,
    end: str,
    mark: bool,
    chunk: int,
    span: int,
) -> None:
    path = tmp_path_factory.mktemp("csv") / "in.csv"
    if quoting == csv.QUOTE_MINIMAL:  # leaves some without quotes, and reads them as the end of a row
        rows = [[cell.replace("\r", "") for cell in row] for row in rows]
    header = ["prompt", "b", "c"][: len(rows[0]) if rows else 1]
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, quoting=quoting, lineterminator=end).writerows([header, *rows, ["last"] * len(header)])
    path.write_bytes(b"\xef\xbb\xbf" * mark + text.getvalue().encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "CHUNK", chunk)
        found, table = read_all(path, input={"csv": {"delimiter": delimiter}}, spans={"rows": span})
    with open(path, newline="", encoding="utf-8-sig") as file:
        expected = list(csv.DictReader(file, delimiter=delimiter))
    assert [row.data for row in found] == expected
    assert [{name: row[name] for name in header} for row in table.to_pylist()] == expected


lines = st.lists(st.text(st.sampled_from('a",\r x'), max_size=8).map(lambda text: text.replace("\n", "")), max_size=8)


@settings(max_examples=300, deadline=None)
@given(before=lines, chunk=st.sampled_from([1, 3, 1 << 20]))
def test_no_line_takes_its_neighbours_with_it(tmp_path_factory: pytest.TempPathFactory, before: list[str], chunk: int) -> None:
    path = tmp_path_factory.mktemp("csv") / "in.csv"
    path.write_text("\n".join(["prompt,b", "one,1", *before, "two,2", "three,3"]) + "\n", newline="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "CHUNK", chunk)
        found = read_all(path)[0]
    assert found[0].data == {"prompt": "one", "b": "1"}
    assert [row.data for row in found[-2:]] == [{"prompt": "two", "b": "2"}, {"prompt": "three", "b": "3"}]
    if not any('"' in line for line in before):
        assert [row.ordinal for row in found[1:-2]] == [n for n, line in enumerate(before, 2) if line not in ("", "\r")]


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("a", "column b: no cell: the row has 1 cells, the header 2"),
        ("a,b,c", "cell 3 has no column: the row has 3 cells, the header 2"),
        ('a,"b', "column b: bad quoting"),
        ('"a"x,b', "column prompt: bad quoting"),
        ('a,"b"x"', "column b: bad quoting"),
        ("a,b\rc", "column b: a carriage return inside of a cell without quotes"),
        (b"a,\xff", "column b: invalid UTF-8"),
        ("x" * 200 + ",b", "the row is over input.max_row_bytes (100)"),
        ('"' + "x\n" * 100 + '",b', "the row is over input.max_row_bytes (100)"),
    ],
)
def test_a_bad_row_is_its_own_error_with_row_and_column(tmp_path: Path, line: str | bytes, cause: str) -> None:
    path = tmp_path / "in.csv"
    line = line.encode() if isinstance(line, str) else line
    rows = read(path, b'prompt,b\none,"1\n"\n' + line + b'\ntwo,"2"\n', max_row_bytes=100)
    assert [row.data for row in rows] == [{"prompt": "one", "b": "1\n"}, None, {"prompt": "two", "b": "2"}]
    assert rows[1].error is not None
    assert rows[1].error.detail == f"{path}:3: {cause}"


@pytest.mark.parametrize("line", ['a,"b', '"b', 'a,"b""'])
def test_a_quote_that_is_never_closed_costs_its_line_alone(tmp_path: Path, line: str) -> None:
    rows = read(tmp_path / "in.csv", f"prompt,b\none,1\n{line}\ntwo,2\nthree,3\n")
    assert [row.data and row.data["prompt"] for row in rows] == ["one", None, "two", "three"]


def test_a_quote_that_is_not_closed_within_the_cap_is_refused_by_name(tmp_path: Path) -> None:
    text = 'prompt,b\none,1\n"two,2\n' + "three,3\n" * 100
    for end in ("", '"x\n'):
        with pytest.raises(InputError, match=r'in\.csv: a cell that begins with " has no end in 100 bytes; .*csv\.quote: null'):
            read(tmp_path / "in.csv", text + end, max_row_bytes=100)
    assert len(read(tmp_path / "in.csv", text, csv={"quote": None})) == 102


@pytest.mark.parametrize(
    ("header", "cause"),
    [
        ("prompt,a,a", "column a is there twice"),
        (",prompt", r"column 1 has no name; name it \(pandas"),
        ("prompt,", "column 2 has no name"),
        ("prompt;b", "has one column, 'prompt;b'; is ';' between the columns"),
        ("prompt\tb", r"has one column, 'prompt\\tb'; is '\\t' between"),
        ('"prompt', "bad quoting"),
        ("", "is an empty line"),
    ],
)
def test_a_header_that_names_no_columns_is_refused(tmp_path: Path, header: str, cause: str) -> None:
    with pytest.raises(InputError, match=rf"^shard .*in\.csv: its header.*{cause}"):
        read(tmp_path / "in.csv", f"{header}\na,b\n")


@pytest.mark.parametrize("ending", PACK)
def test_csv_and_tsv_are_read_plain_and_compressed(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"in.tsv{ending}"
    rows = read(path, PACK[ending](b'prompt\tb\r\n"a\r\nb"\t1\r\n\r\nc\t\r\n'))
    assert [(row.ordinal, row.data) for row in rows] == [(1, {"prompt": "a\r\nb", "b": "1"}), (3, {"prompt": "c", "b": ""})]
    job, columns, [shard], spans = planned(path, spans={"rows": 1})
    [(_, [row], _)] = reader.read_spans(job, shard, spans[1:], columns.kept, {"prompt"})
    assert row.data == {"prompt": "c", "b": ""}


def test_cells_are_text_unless_the_job_says_otherwise(tmp_path: Path) -> None:
    types = {"i": "integer", "n": "number", "t": "boolean", "j": "json", "s": "string"}
    big = "123456789012345678901234567890"
    lines = ["prompt,i,n,t,j,s", '007,7,0.5,True,"{""a"": [1]}",', "a,,,,,", f"b,{big},1e3,false,null,x", "c,007,,,,", "d,,.5,,,"]
    lines += ["e,,,yes,,", "f,,,,{,", "g,1.0,,,,", "h,,NaN,,,"]
    path = tmp_path / "in.csv"
    rows = read(path, "\n".join(lines) + "\n", types=types)
    assert [row.data for row in rows[:3]] == [
        {"prompt": "007", "i": 7, "n": 0.5, "t": True, "j": {"a": [1]}, "s": ""},
        {"prompt": "a", "i": None, "n": None, "t": None, "j": None, "s": ""},
        {"prompt": "b", "i": int(big), "n": 1000.0, "t": False, "j": None, "s": "x"},
    ]
    assert causes(rows[3:]) == [
        "column i: '007' is no integer",
        "column n: '.5' is no number",
        "column t: 'yes' is no boolean",
        "column j: '{' is no json",
        "column i: '1.0' is no integer",
        "column n: 'NaN' is no number",
    ]
    with pytest.raises(JobError, match=r"input\.types\.x: no column 'x' in the input"):
        planned(path, input={"types": {"x": "integer"}})
    (tmp_path / "in.jsonl").write_text('{"prompt": "a"}\n')
    with pytest.raises(JobError, match=r"input\.types\.prompt: this input's columns have types"):
        planned(tmp_path / "in.jsonl", input={"types": {"prompt": "integer"}})


@pytest.mark.parametrize("csv_fields", [{"delimiter": ",,"}, {"delimiter": "\n"}, {"quote": "、"}, {"quote": ","}])
def test_delimiter_and_quote_are_one_ascii_character(csv_fields: dict[str, str]) -> None:
    with pytest.raises(JobError, match=r"input\.csv"):
        Job.parse({"input": {"path": "a.csv", "prompt": "p", "csv": {"delimiter": ","} | csv_fields}, "output": {"path": "o"}})


def test_appended_rows_add_spans_and_a_half_row_waits(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text("prompt,n\na,")
    fields = {"path": str(path), "prompt": "prompt"}
    path.write_text('prompt,n\n"a\na",1\nhalf')
    done = Finished(tmp_path, input=fields, spans={"rows": 1}, sampling={"n": 1}, engine={"kind": "echo"})
    assert [row["prompt"] for row in done.rows()] == ["a\na"]
    with path.open("a") as file:
        file.write(" row,2\nb,3")
    assert done.run() == 2
    with path.open("a") as file:
        file.write("\nc,4\n")
    assert done.run() == 1
    assert [(row["row"], row["prompt"]) for row in done.rows()] == [(1, "a\na"), (2, "half row"), (3, "b"), (4, "c")]
    assert done.output.verify().problems == []
    path.write_text(path.read_text().replace("b,3", "b,4"))
    touch(path)
    with pytest.raises(OutputConflict, match="its rows changed"):
        done.run()


def test_a_header_alone_waits_for_rows_and_a_row_that_is_continued_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text("prompt")
    with pytest.raises(InputError, match="no rows in it"):
        make(make_job(path))
    path.write_text('prompt\na\n"b')
    [shard], _ = make(job := make_job(path))
    assert (shard.rows, shard.rest) == (1, 2)
    path.write_text('prompt\na\n"b\nc')
    [shard], _ = make(job)
    assert (shard.rows, shard.lines) == (3, 4)
    path.write_text('prompt\na\n"b\nc"\nd\n')
    touch(path)
    with pytest.raises(OutputConflict, match="its rows changed"):
        make(job, [shard])

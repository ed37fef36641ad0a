"""The registry of formats: by ending, by name, and formats that come from outside the package."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from batchgen.errors import InputError, JobError, OutputConflict
from batchgen.job.input import Input
from batchgen.output.output import Output
from batchgen.read.discover import discover
from batchgen.read.formats import Found
from batchgen.read.formats.table import Contents, TableFormat
from batchgen.read.formats.text.jsonl import Jsonl
from batchgen.records import Row, Shard
from tests.support.finished import Finished
from tests.support.packages import install
from tests.support.reading import read_all


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.jsonl", "jsonl"),
        ("a.ndjson.gz", "jsonl"),
        ("a.b.jsonl.zst", "jsonl"),
        ("a.jsonl.bz2", "jsonl"),
        ("a.jsonl.xz", "jsonl"),
        ("a.parquet", "parquet"),
        ("a.csv", "csv"),
        ("a.TSV.gz", "csv"),
    ],
)
def test_the_format_goes_by_the_ending(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / name).touch()
    assert [shard.format for shard in discover(Input(path=str(tmp_path / name), prompt="prompt"))] == [kind]


@pytest.mark.parametrize("name", ["a.txt", "a.parquet.gz", "jsonl"])
def test_a_file_of_another_ending_has_no_format(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(InputError, match="unknown format"):
        discover(Input(path=str(tmp_path / name), prompt="prompt"))


def test_an_unknown_format_is_refused_with_the_nearest() -> None:
    with pytest.raises(JobError) as caught:
        discover(Input(path="in.jsonl", prompt="prompt", format="jsnol"))
    names = "jsonl, csv, json, parquet, dataset, delta, iceberg, openai-batch, output, query"
    assert str(caught.value) == f"input.format jsnol: no such name, did you mean jsonl?; there are {names}"


class Text(Jsonl):
    """Every line is a prompt."""

    name = "text"
    endings = (".txt",)

    def row(self, spec: Input, shard: str, ordinal: int, line: bytes | None) -> Row:
        return Row(ordinal, {"prompt": (line or b"").decode()})


class Squares(TableFormat):
    """`squares:N` is a table of N numbers; no file has it."""

    name = "squares"

    def claim(self, path: str) -> list[Found] | None:
        return [Found(path, self.name)] if path.startswith("squares:") else None

    def version(self, spec: Input, name: str) -> tuple[int, str]:
        return 0, name

    def head(self, spec: Input, name: str, rows: int = 0) -> pa.Schema:
        return pa.schema([("prompt", pa.string()), ("square", pa.int64())])

    def contents(self, spec: Input, name: str) -> Contents:
        return Contents(name, int(name.removeprefix("squares:")))

    def batches(self, spec: Input, shard: Shard, start: int, end: int, columns: list[str] | None) -> Iterator[pa.Table]:
        for number in range(start, end):
            yield pa.table([[str(number)], [number**2]], schema=self.head(spec, shard.name))


TEXT, SQUARES = Text(), Squares()
TOYS = ((TEXT, "TEXT"), (SQUARES, "SQUARES"))


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "site", monkeypatch, {"batchgen.formats": {toy.name: f"{__name__}:{place}" for toy, place in TOYS}})


@pytest.mark.usefixtures("toys")
def test_a_text_format_from_outside_is_found_planned_read_and_grows(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.txt").write_text("one\n\ntwo\n")
    rows, carried = read_all(tmp_path / "in")
    assert [(row.ordinal, row.messages) for row in rows] == [
        (0, [{"role": "user", "content": "one"}]),
        (2, [{"role": "user", "content": "two"}]),
    ]
    assert carried.to_pylist() == [{"prompt": "one", "input_extra": None}, {"prompt": "two", "input_extra": None}]
    done = Finished(tmp_path, input={"path": str(tmp_path / "in"), "prompt": "prompt"}, sampling={"n": 1})
    with open(tmp_path / "in/a.txt", "a") as text:
        text.write("three\n")
    assert done.run() == 1
    assert [row["messages"][0]["content"] for row in done.rows()] == ["one", "two", "three"]


@pytest.mark.usefixtures("toys")
def test_a_table_format_from_outside_is_found_planned_and_read(tmp_path: Path) -> None:
    done = Finished(tmp_path, input={"path": "squares:25", "prompt": "prompt"}, sampling={"n": 1})
    assert [(row["row"], row["prompt"], row["square"]) for row in done.rows()] == [(n, str(n), n**2) for n in range(25)]
    assert [span.rows for span in done.plan.spans] == [10, 10, 5]
    assert Output.open(done.store).verify().problems == []
    done.fields["input"]["path"] = "squares:26"
    with pytest.raises(OutputConflict, match="planned shard squares:25 is not in the input any more"):
        done.run()

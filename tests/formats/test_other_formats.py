"""Formats that this release does not write: a later one is refused by name, an older one with fewer fields is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from batchgen.job.meaning import fingerprint
from batchgen.output import parts, plan_file
from batchgen.output.format import KEY
from batchgen.output.job_file import NAME
from batchgen.output.output import Output
from batchgen.output.progress import PROGRESS
from batchgen.prepare import prepare
from batchgen.replica import journal
from tests.support.commands import in_process
from tests.support.finished import run_here
from tests.support.released import contents, done, job_of, journal_rows


def later(fields: dict[str, Any]) -> dict[str, Any]:
    return fields | {"format": 2, "version": "9.9"}


def a_later_job_file(output: Path) -> None:
    path = output / NAME
    path.write_text(json.dumps(later(json.loads(path.read_text())) | {"job": "in other words"}))


def with_later_mark(path: Path) -> None:
    table = pq.read_table(path)
    about = later(json.loads((table.schema.metadata or {}).get(KEY, b"{}")))
    metadata = {**(table.schema.metadata or {}), KEY: json.dumps(about)}
    pq.write_table(table.replace_schema_metadata(metadata), path, write_page_checksum=True)


def a_later_part(output: Path) -> None:
    with_later_mark(next(iter(sorted((output / "data").iterdir()))))
    (output / PROGRESS).unlink()


def a_later_plan(output: Path) -> None:
    with_later_mark(output / plan_file.name_of(0, plan_file.FIRST_ENDING))


VERBS = [
    ("status", "out"),
    ("verify", "out"),
    ("verify", "out", "--repair"),
    ("export", "out", "--to", "files"),
    ("fidelity", "out"),
    ("retry", "out"),
    ("run", "job.yaml"),
]


@pytest.mark.parametrize("change", [a_later_job_file, a_later_part, a_later_plan], ids=lambda change: change.__name__)
def test_a_later_format_is_refused_by_name(released: Path, change: Callable[[Path], None]) -> None:
    folder = released / "sweep"
    change(folder / "out")
    before = {path: path.read_bytes() for path in sorted((folder / "out").rglob("*")) if path.is_file()}
    for verb in VERBS:
        end = in_process(folder, *verb)
        if change is a_later_plan and verb[0] == "fidelity":
            assert end.returncode == 0, "it needs no plan"
            continue
        assert end.returncode == 2, (verb, end)
        assert "written by batchgen 9.9 (format 2), this is batchgen " in end.stderr
        assert end.stderr.splitlines()[-1].endswith("(format 1); upgrade batchgen")
    after = {path: path.read_bytes() for path in sorted((folder / "out").rglob("*")) if path.is_file()}
    assert after == before


def test_a_journal_file_of_a_later_format_is_as_good_as_none(released: Path) -> None:
    output = Output.open(str(released / "interrupted/out"))
    [span] = [span.name for span in output.plan.spans if journal.load(output.store, span.name)[0]]
    first, *others = sorted((released / "interrupted/out" / journal.FOLDER / span).iterdir())
    with_later_mark(first)
    assert len(journal.load(output.store, span)[0]) == len(others)


@pytest.fixture
def older(released: Path) -> Path:
    """The kinds as a release would have written them that did not have some of today's fields, and had some that are gone."""
    for kind in ("sweep", "interrupted"):
        path = released / kind / "out" / NAME
        fields = json.loads(path.read_text())
        for section, name in (("input", "answer_role"), ("engine", "watchdog_seconds"), ("output", "token_logprobs")):
            del fields["job"][section][name]
        del fields["job"]["limits"]
        fields["job"] |= {"gone": {"a": 1}, "sampling": fields["job"]["sampling"] | {"gone": 0.5}}
        fields["job"]["input"]["gone"] = "x"
        for name in ("input.answer_role", "output.token_logprobs", "sampling.min_p", "sampling.skip_special_tokens"):
            del fields["meaning"][name]
        fields["meaning"]["input.gone"] = None
        fields["fingerprint"] = fingerprint(fields["meaning"])
        path.write_text(json.dumps(fields))
        for part in [*(path.parents[1] / "data").iterdir(), *(path.parent / "journal").glob("*/*.parquet")]:
            without_sampling_field(part, "min_p")
    return released


def without_sampling_field(path: Path, name: str) -> None:
    table = pq.read_table(path)
    index = table.schema.get_field_index("sampling")
    kind = pa.struct([field for field in table.schema.field(index).type if field.name != name])
    fields = [pc.struct_field(table["sampling"].combine_chunks(), field.name) for field in kind]
    column = pa.StructArray.from_arrays(fields, fields=list(kind), mask=pc.is_null(table["sampling"].combine_chunks()))
    pq.write_table(table.set_column(index, pa.field("sampling", kind), column), path, write_page_checksum=True)


def test_an_output_with_fewer_fields_is_read_proven_and_exported(older: Path) -> None:
    output = Output.open(str(older / "sweep/out"))
    assert (output.job.doubt, output.verify().problems, len(list(output.rows()))) == (None, [], 36)
    assert (output.job.job.limits.errors, output.job.job.input.answer_role) == (0.01, "assistant")
    assert "36 ok" in done(older / "sweep", "status", "out")
    assert "36 lines" in done(older / "sweep", "export", "out", "--to", "files")


def test_an_output_with_fewer_fields_is_resumed(older: Path) -> None:
    before = contents(older / "sweep/out")
    done(older / "sweep", "run", "job.yaml")
    assert contents(older / "sweep/out") == before
    end = in_process(older / "sweep", "run", "job.yaml", "--set", "sampling.min_p=0.1")
    assert end.returncode == 2
    assert "  sampling.min_p: 0.0 there, 0.1 in this job\n" in end.stderr


def test_an_interrupted_output_with_fewer_fields_is_brought_to_its_end(older: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(older / "interrupted", monkeypatch, "engine.options.seconds_per_token=0")
    before, kept = contents(Path("out")), journal_rows(Path("out"))
    output = Output.open("out")
    receipts = run_here(prepare(job, output.store), output.store)
    assert sum(receipt.from_journal for receipt in receipts) == len(kept) == 4
    assert contents(Path("out")).items() >= before.items()
    assert Output.open("out").verify().problems == []
    assert [parts.span_of(f"data/{name}") for name in before] == [span.name for span in output.plan.spans[:3]]

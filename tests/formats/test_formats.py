"""Outputs of every released format are read, verified, resumed, retried and exported; those of a later one are refused by name.

The archives are made by make.py, each by the release that introduced its format.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import xxhash

from batchgen.job.job import Job
from batchgen.job.meaning import differences, fingerprint
from batchgen.output import job_file, parts, plan_file
from batchgen.output.format import KEY
from batchgen.output.job_file import NAME
from batchgen.output.output import Output
from batchgen.output.progress import PROGRESS
from batchgen.prepare import prepare
from batchgen.replica import journal
from tests.support.commands import batchgen, in_process
from tests.support.finished import run_here

KINDS: dict[str, tuple[int, dict[str, int], int, str]] = {
    "chained": (13, {}, 197, "c9b53dc9633cc03e"),
    "grown": (12, {}, 165, "ae44a9c6ad62d0d0"),
    "labels": (6, {"parse": 2}, 44, "1d0ddf7fb1ed66b0"),
    "logprobs": (12, {}, 120, "ffecf08a78362510"),
    "parquet": (12, {}, 176, "e34a7f23e3bdce4a"),
    "parsed": (12, {"parse": 2}, 64, "072f5d8deb897c86"),
    "plain": (14, {"input": 1}, 172, "047f648e4f28babf"),
    "retry": (28, {"engine_rejected": 2, "input": 2}, 346, "73bf28c222ff4741"),
    "sweep": (36, {}, 318, "f96de2886f60651c"),
    "turns": (6, {}, 240, "d8642f2d47f0bff4"),
}
"""The finished outputs of format 1: rows, failed rows by code, generated tokens, and a digest of the answers. `interrupted` is
the one that is not finished."""
ANSWER = ("shard", "row", "variant", "sample", "attempt", "response", "prompt_hash", "error_code")


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("formats")
    with tarfile.open(Path(__file__).parent / "1.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def released(unpacked: Path, tmp_path: Path) -> Path:
    """A folder with a folder for every kind, to be changed."""
    return Path(shutil.copytree(unpacked, tmp_path / "formats"))


def contents(output: Path) -> dict[str, bytes]:
    """The parts of an output by name."""
    return {path.name: path.read_bytes() for path in sorted((output / "data").glob("*"))}


def done(folder: Path, *arguments: str) -> str:
    """What a command that ends well prints."""
    end = in_process(folder, *arguments)
    assert end.returncode == 0, end.stderr
    return end.stdout


def job_of(folder: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> Job:
    """The kind's job, whose relative paths start at its folder from now on."""
    monkeypatch.chdir(folder)
    return Job.load("job.yaml", overrides)


@pytest.mark.parametrize("kind", KINDS)
def test_a_finished_output_is_read_and_proven(unpacked: Path, kind: str) -> None:
    planned, errors, tokens, digest = KINDS[kind]
    output = Output.open(str(unpacked / kind / "out"))
    rows = list(output.rows())
    answers = xxhash.xxh3_64("".join(json.dumps([row[name] for name in ANSWER]) for row in rows).encode())
    assert (len(rows), answers.hexdigest()) == (planned, digest)
    codes = [row["error_code"] for row in rows if row["status"] == "error"]
    assert {code: codes.count(code) for code in codes} == errors
    verdict = output.verify()
    assert (verdict.problems, verdict.doubt) == ([], None)
    assert (verdict.rows_ok, verdict.rows_error) == (planned - len(codes), len(codes))
    status = output.status()
    assert (status["state"], status["completion_tokens"], status["errors"]) == ("done", tokens, errors)


def test_the_values_of_every_kind_of_column_are_read(unpacked: Path) -> None:
    def row(kind: str, number: int = 1) -> dict[str, Any]:
        return list(Output.open(str(unpacked / kind / "out")).rows())[number]

    assert [row("plain")[name] for name in ("id", "score", "tags", "lang", "new")] == ["q1", "0.5", ["a", "b"], "en", None]
    assert json.loads(row("plain", 13)["new"]) == {"a": 1}
    assert (row("parquet")["nested"], str(row("parquet")["when"])) == ({"a": 1, "b": ["1"]}, "1970-01-02 00:00:00+00:00")
    assert (row("sweep")["attributes"]["quality"], row("sweep")["sampling"]["stop"]) == (3, ["tea"])
    assert [message["role"] for message in row("turns")["messages"]] == ["system", *["user", "assistant"] * 3]
    assert row("labels")["parsed"] == {"helpfulness": 3, "correctness": 4, "coherence": 4, "complexity": 1, "verbosity": 2}
    assert row("parsed")["parsed"] == {"good": None, "sure": 1, "why": "{}"}
    tokens = row("logprobs")["token_logprobs"]
    assert (len(tokens), len(tokens[0]["top"])) == (12, 2)
    assert sum(token["logprob"] for token in tokens) == pytest.approx(row("logprobs")["cumulative_logprob"], rel=1e-6)
    assert (row("chained")["input_completion_tokens"], row("chained")["score"]) == (12, "0.5")
    assert (row("retry", 0)["attempt"], row("retry", 2)["attempt"]) == (2, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_meaning_is_what_the_job_file_of_today_means(unpacked: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(unpacked / kind, monkeypatch)
    stored = Output.open("out").job
    assert stored.job == job
    meant = {name: value for name, value in stored.meaning.items() if name in job.meaning()}
    assert differences(meant, job.meaning(), job_file.defaults()) == {}


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_of_a_finished_output_changes_no_part(released: Path, kind: str) -> None:
    before = contents(released / kind / "out")
    assert f"{KINDS[kind][0]:,} rows" not in done(released / kind, "run", "job.yaml")
    assert contents(released / kind / "out") == before
    assert "exactly once" in done(released / kind, "verify", "out")


@pytest.mark.parametrize("kind", KINDS)
def test_every_output_is_exported(unpacked: Path, tmp_path: Path, kind: str) -> None:
    planned, errors, *_ = KINDS[kind]
    assert done(unpacked / kind, "export", "out", "--to", str(tmp_path)) == f"{tmp_path}/rows.jsonl: {planned} lines\n"
    first = json.loads((tmp_path / "rows.jsonl").read_text().splitlines()[0])
    assert (first["row"], first["variant"], first["sample"], first["model"]) == (0, 0, 0, "echo")
    done(unpacked / kind, "export", "out", "--to", str(tmp_path), "--format", "openai")
    answers = [json.loads(line) for line in (tmp_path / "output.jsonl").read_text().splitlines()]
    choices = [choice for answer in answers for choice in answer["response"]["body"]["choices"]]
    assert len(choices) == planned - sum(errors.values())
    assert (choices[0]["logprobs"] is not None) == (kind == "logprobs")


def test_the_labels_and_the_sweep_are_compared_with_what_was_asked_for(unpacked: Path) -> None:
    found = json.loads(done(unpacked / "sweep", "fidelity", "out", "--json"))
    assert found["verbosity"]["asked"] == {"0": 12, "2": 12, "4": 12}


def test_failed_rows_are_tried_again(released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(released / "retry/out")
    made = prepare(job_of(released / "retry", monkeypatch, "engine={kind: echo}"))
    output = Output.open("out")
    assert output.retry() == 2
    assert [receipt.counts.rows for receipt in run_here(made, output.store)] == [2]
    again = Output.open("out")
    assert again.verify().problems == []
    assert {row["attempt"] for row in again.rows()} == {1, 2, 3}
    assert (again.status()["rows_ok"], again.status()["errors"]) == (26, {"input": 2})
    assert contents(released / "retry/out").items() >= before.items()


def test_a_grown_input_is_planned_and_read_by_another_job(released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, lines in (("plain", '{"id": "q99", "prompt": "More?"}\n'), ("chained", "")):
        job = job_of(released / kind, monkeypatch)
        if lines:
            with open("in.jsonl", "a") as file:
                file.write(lines)
        before = contents(Path("out"))
        output = Output.open("out")
        assert [receipt.counts.ok for receipt in run_here(prepare(job, output.store), output.store)] == [1]
        assert Output.open("out").verify().problems == []
        assert contents(Path("out")).items() >= before.items()
        assert {row["score"] for row in Output.open("out").rows()} > {"0.5", None}, "of the old parts and of the new one"


def test_an_interrupted_output_says_what_is_missing(unpacked: Path) -> None:
    output = Output.open(str(unpacked / "interrupted/out"))
    assert len(list(output.rows())) == 24
    assert [problem.partition(": ")[2] for problem in output.verify().problems] == ["missing (8 rows)"] * 9
    status = output.status()
    assert (status["state"], status["spans_done"], status["rows_planned"]) == ("running", 3, 96)
    assert output.verify().damaged == []


@pytest.mark.cluster(own=True)
def test_an_interrupted_output_is_brought_to_its_end(released: Path) -> None:
    folder = released / "interrupted"
    before = contents(folder / "out")
    kept = {row["row"]: row for row in journal_rows(folder / "out")}
    end = batchgen("run", "job.yaml", "--force", "--json", "--set", "engine.options.seconds_per_token=0", cwd=folder)
    assert end.returncode == 0, end.stderr
    status = json.loads(end.stdout)
    assert (status["rows_ok"], status["rows_from_journal"], status["spans_done"]) == (96, len(kept), 12)
    assert contents(folder / "out").items() >= before.items()
    output = Output.open(str(folder / "out"))
    assert output.verify().problems == []
    assert {row["row"]: row["seconds"] for row in output.rows() if row["row"] in kept} == {
        number: row["seconds"] for number, row in kept.items()
    }


def journal_rows(output: Path) -> list[dict[str, Any]]:
    """The rows in the journal, each with its ordinal, of the one span that has any."""
    [folder] = [path for path in sorted((output / journal.FOLDER).iterdir()) if list(path.iterdir())]
    start = int(folder.name.split("-")[1])
    rows = [row for path in folder.iterdir() for row in pq.read_table(path).to_pylist()]
    return [{**row, "row": start + row["prompt"]} for row in rows]


@pytest.mark.cluster(own=True)
def test_a_retry_is_run_by_its_command(released: Path) -> None:
    end = batchgen("retry", "out", "--set", "engine={kind: echo}", "--json", cwd=released / "parsed")
    assert (end.returncode, end.stderr.splitlines()[0]) == (0, "2 failed rows to run again"), end.stderr
    assert done(released / "parsed", "verify", "out").startswith("every planned row is there exactly once: 12 rows")


# Formats that this release does not have.


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
    with_later_mark(output / plan_file.name_of(0))


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


# Outputs of releases that had fewer fields, and others.


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

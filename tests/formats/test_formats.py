"""Outputs of every released format are read, verified, resumed, retried and exported; those of a later one are refused by name.

The archives are made by make.py, each by the release that introduced its format.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import xxhash

from batchgen.job.meaning import differences
from batchgen.output import job_file
from batchgen.output.output import Output
from batchgen.prepare import prepare
from tests.support.commands import batchgen
from tests.support.finished import run_here
from tests.support.released import KINDS, contents, done, job_of, journal_rows

ANSWER = ("shard", "row", "variant", "sample", "attempt", "response", "prompt_hash", "error_code")


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
        assert {path.suffix for path in Path("out/_batchgen/plan").iterdir()} == {".parquet"}, "as it was begun"
        assert {row["score"] for row in Output.open("out").rows()} > {"0.5", None}, "of the old parts and of the new one"


def test_an_interrupted_output_says_what_is_missing(unpacked: Path) -> None:
    output = Output.open(str(unpacked / "interrupted/out"))
    assert len(list(output.rows())) == 24
    verdict = output.verify()
    assert verdict.problems == ["unfinished: 9 of 12 spans have no part yet; run the job again to finish it"]
    assert (verdict.unfinished, verdict.recorded, verdict.parts) == (True, 0, 3)
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


@pytest.mark.cluster(own=True)
def test_a_retry_is_run_by_its_command(released: Path) -> None:
    end = batchgen("retry", "out", "--set", "engine={kind: echo}", "--json", cwd=released / "parsed")
    assert (end.returncode, end.stderr.splitlines()[0]) == (0, "2 failed rows to run again"), end.stderr
    assert done(released / "parsed", "verify", "out").startswith("every planned row is there exactly once: 12 rows")

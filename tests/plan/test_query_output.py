"""`input.query` and its output: answered once, found again, proven, and refused where the sources are others."""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

import batchgen
from batchgen.errors import OutputConflict
from batchgen.export import files
from batchgen.job.job import Job
from batchgen.output import job_file, plan_file
from batchgen.output.output import Output
from batchgen.output.store import open_store
from batchgen.output.trust import query_file
from batchgen.output.trust.doors import refuse_doors
from batchgen.plan import plan
from batchgen.plan.query import sql
from batchgen.prepare import prepare
from tests.support.commands import in_process
from tests.support.finished import run_here
from tests.support.planning import touch

QUERY = "SELECT id, prompt FROM input WHERE id % 2 = 0 ORDER BY id"


def lines(*numbers: int) -> str:
    return "".join(json.dumps({"id": n, "prompt": f"say {n}" + " forbidden" * (n == 4)}) + "\n" for n in numbers)


class Queried:
    """A job with a query over two files; one of its rows is refused until it is mended."""

    def __init__(self, folder: Path, out: str | None = None, **given: Any) -> None:
        self.folder = folder
        (folder / "a.jsonl").write_text(lines(*range(20)))
        (folder / "b.jsonl").write_text(lines(*range(20, 30)))
        of_input = {"path": str(folder / "*.jsonl"), "query": QUERY, "prompt": "prompt", **given}
        engine = {"kind": "echo", "options": {"reject_on": "forbidden"}}
        out = out or str(folder / "out")
        self.fields: dict[str, Any] = {"input": of_input, "engine": engine, "limits": {"errors": 1}, "output": {"path": out}}
        self.store = open_store(out)

    @property
    def job(self) -> Job:
        return Job.parse(self.fields)

    def run(self, planned_only: bool = False) -> int:
        made = prepare(self.job, self.store, planned_only=planned_only)
        return sum(receipt.counts.rows for receipt in run_here(made, self.store))

    def refusal(self, **given: Any) -> str:
        changed = self.fields | {"input": self.fields["input"] | given}
        with pytest.raises(OutputConflict) as caught:
            prepare(Job.parse(changed), self.store)
        return str(caught.value)

    def prompts(self) -> list[str]:
        return [row["prompt"] for row in Output.open(self.store).rows()]

    @property
    def query_files(self) -> list[str]:
        return sorted(name for name in self.store.list(query_file.FOLDER) if name != query_file.NAME)


@pytest.fixture
def queried(tmp_path: Path) -> Queried:
    made = Queried(tmp_path)
    assert made.run() == 15
    return made


def never(*_: object) -> None:
    pytest.fail("the query is answered again")


def test_an_answer_is_written_once_and_found_again(queried: Queried, monkeypatch: pytest.MonkeyPatch) -> None:
    assert queried.prompts() == [f"say {n}" + " forbidden" * (n == 4) for n in range(0, 30, 2)]
    before = {name: queried.store.get(name) for name in [*queried.query_files, query_file.NAME, job_file.NAME]}
    assert len(before) == 3
    monkeypatch.setattr(sql, "answer", never)
    assert queried.run() == 0
    assert batchgen.run(queried.fields, quiet=True)["rows_ok"] == 14
    assert {name: queried.store.get(name) for name in before} == before
    stored = Output.open(queried.store).job.job.input
    assert (stored.query, stored.path, stored.format) == (QUERY, queried.fields["input"]["path"], "auto")
    assert Output.open(queried.store).verify().problems == []


def test_the_rows_of_the_output_name_the_file_of_the_answer(queried: Queried) -> None:
    [row] = {(row["shard"], row["status"]) for row in Output.open(queried.store).rows() if row["status"] == "error"}
    assert f"{query_file.FOLDER}/{row[0]}" in queried.query_files
    [error] = [row["error_detail"] for row in Output.open(queried.store).rows() if row["status"] == "error"]
    assert "forbidden" in error


@pytest.mark.parametrize("written", ["nothing", "job", "rows", "query", "plan"])
def test_a_run_that_died_on_the_way_is_resumed(tmp_path: Path, written: str, monkeypatch: pytest.MonkeyPatch) -> None:
    queried = Queried(tmp_path)
    made = prepare(queried.job, queried.store)
    steps = ["nothing", "job", "rows", "query", "plan"].index(written)
    if steps >= 1:
        job_file.freeze(queried.store, made.stated, made.renderer.model, made.columns.kept, made.upstream)
    if steps >= 2:
        with monkeypatch.context() as patch:
            if written == "rows":
                patch.setattr(query_file, "freeze", lambda *_: made.asked and made.asked.answer)
            made = made.kept(queried.store)
    if steps >= 4:
        plan.freeze_plan(made.job, queried.store, made.found, made.columns)
    if steps >= 3:
        monkeypatch.setattr(sql, "answer", never)
    assert queried.run() == 15
    assert len(queried.query_files) == 1
    assert Output.open(queried.store).verify().problems == []


def test_the_first_of_two_drivers_answers(tmp_path: Path) -> None:
    queried = Queried(tmp_path)
    queried.fields["input"]["query"] = "SELECT prompt FROM input ORDER BY random()"
    first, second = prepare(queried.job, queried.store), prepare(queried.job, queried.store)
    assert first.found != second.found
    kept = first.kept(queried.store)
    assert kept.renderer.job == kept.job, "the tasks that read look where the rows are now"
    other = second.kept(queried.store)
    assert (other.job.input.path, other.found) == (kept.job.input.path, kept.found)


def test_a_changed_query_is_refused_with_both(queried: Queried) -> None:
    said = queried.refusal(query=QUERY.replace("2", "3"))
    assert f"input.query: {QUERY!r} there, {QUERY.replace('2', '3')!r} in this job" in said
    assert "input.query" in queried.refusal(query=None)


def test_a_query_over_the_output_of_a_job_without_one_is_refused(tmp_path: Path) -> None:
    queried = Queried(tmp_path)
    del queried.fields["input"]["query"]
    queried.run()
    assert "input.query: None there" in queried.refusal(query=QUERY)


def test_a_source_that_is_another_is_refused_by_name(queried: Queried) -> None:
    source = queried.folder / "b.jsonl"
    touch(source)
    assert queried.run() == 0
    source.write_text(lines(*range(20, 31)))
    assert "b.jsonl has rows that it had not when input.query was answered" in queried.refusal()
    source.write_text(lines(*range(21, 31)))
    assert "b.jsonl" in queried.refusal()
    source.unlink()
    assert "planned shard" in queried.refusal()
    source.write_text(lines(*range(20, 30)))
    (queried.folder / "c.jsonl").write_text(lines(30))
    assert "c.jsonl has rows" in queried.refusal()
    (queried.folder / "c.jsonl").write_text("")
    assert queried.run() == 0


def test_a_table_that_is_another_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("id\n1\n2\n")
    tables = {"labels": str(tmp_path / "labels.csv"), "unused": str(tmp_path / "labels.csv")}
    queried = Queried(tmp_path, tables=tables, query="SELECT prompt FROM input WHERE id IN (SELECT CAST(id AS INT) FROM labels)")
    assert queried.run() == 2
    (tmp_path / "labels.csv").write_text("id\n1\n2\n3\n")
    assert "labels.csv has rows that it had not" in queried.refusal()
    shutil.rmtree(tmp_path / "out")
    assert queried.run() == 3
    (tmp_path / "labels.csv").unlink()
    assert queried.run() == 0
    (tmp_path / "b.jsonl").write_text(lines(*range(20, 31)))
    assert "b.jsonl has rows" in queried.refusal(), "though a table is gone"


def test_sources_that_are_gone_are_not_needed(queried: Queried) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (queried.folder / name).unlink()
    said = io.StringIO()
    assert batchgen.run(queried.fields, out=said)["rows_ok"] == 14
    assert "the rows of input.query are those in the output" in said.getvalue()


def test_a_retry_looks_at_no_source_and_needs_no_word(queried: Queried, monkeypatch: pytest.MonkeyPatch) -> None:
    (queried.folder / "b.jsonl").write_text("other\n")
    (queried.folder / "a.jsonl").unlink()
    monkeypatch.setattr(sql, "answer", never)
    refuse_doors(Job.parse(queried.fields | {"engine": {"kind": "echo"}}), [], "out")
    assert Output.open(queried.store).retry() == 1
    queried.fields["engine"] = {"kind": "echo"}
    assert queried.run(planned_only=True) == 1
    assert [row["status"] for row in Output.open(queried.store).rows()] == ["ok"] * 15
    assert Output.open(queried.store).verify().problems == []
    said = in_process(queried.folder, "retry", "out", "--set", "engine.options={}")
    assert (said.returncode, "0 failed rows" in said.stderr) == (0, True), said.stderr


def test_an_output_may_be_moved(queried: Queried) -> None:
    shutil.move(queried.folder / "out", queried.folder / "there")
    queried.store = open_store(str(queried.folder / "there"))
    queried.fields |= {"engine": {"kind": "echo"}, "output": {"path": str(queried.folder / "there")}}
    assert Output.open(queried.store).retry() == 1
    assert queried.run() == 1
    assert Output.open(queried.store).verify().problems == []


def test_verify_proves_the_answer(queried: Queried) -> None:
    [name] = queried.query_files
    whole = queried.store.get(name)
    assert whole is not None
    path = queried.folder / "out" / name
    path.write_bytes(whole[:-1] + b"?")
    verdict = Output.open(queried.store).verify()
    assert verdict.problems == [f"{name}: it is not what was written: its sha256 differs"]
    assert verdict.damaged == []
    path.unlink()
    assert Output.open(queried.store).verify().problems == [f"{name}: missing (15 rows of the query)"]
    path.write_bytes(whole)
    assert Output.open(queried.store).verify().problems == []
    record = queried.folder / "out" / query_file.NAME
    text = record.read_bytes()
    record.write_bytes(text.replace(b'"rows": 15', b'"rows": 14'))
    problems = Output.open(queried.store).verify().problems
    assert any("query.json: changed since the job was done" in one for one in problems)
    assert any("query.json is damaged: it is not as it was written" in one for one in problems)
    record.unlink()
    assert any("query.json: missing" in one for one in Output.open(queried.store).verify().problems)


def test_a_damaged_answer_is_not_run(tmp_path: Path) -> None:
    queried = Queried(tmp_path)
    made = prepare(queried.job, queried.store)
    made = made.kept(queried.store)
    [name] = queried.query_files
    path = tmp_path / "out" / name
    table = pq.read_table(path)
    job_file.freeze(queried.store, made.stated, made.renderer.model, made.columns.kept, made.upstream)
    plan.freeze_plan(made.job, queried.store, made.found, made.columns)
    pq.write_table(table.slice(1), path)
    with pytest.raises(OutputConflict, match="is not what was planned"):
        queried.run()


def test_chains_and_exports_see_rows_of_the_output_only(queried: Queried) -> None:
    chained = Job.parse(
        {"input": {"path": str(queried.folder / "out"), "prompt": "prompt"}, "engine": {"kind": "echo"}, "output": "x"}
    )
    made = prepare(chained)
    assert {shard.format for shard in made.found} == {"output"}
    assert {Path(shard.name).parent.name for shard in made.found} == {"data"}
    exported = files.export(Output.open(queried.store), files.EXPORTS.named("jsonl"), queried.folder / "to")
    assert sum(exported.values()) == 15


def test_an_answer_and_its_sources_live_in_an_object_store(tmp_path: Path, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    place = f"{s3.url}/query-{os.getpid()}"
    key = place.removeprefix(f"{s3.url}/")
    s3.client.put_object(Bucket=s3.bucket, Key=f"{key}/in/a.jsonl", Body=lines(*range(30)).encode())
    queried = Queried(tmp_path, f"{place}/out", path=f"{place}/in/a.jsonl")
    assert queried.run() == 15
    assert [row["prompt"] for row in Output.open(queried.store).rows()][:2] == ["say 0", "say 2"]
    assert Output.open(queried.store).verify().problems == []
    monkeypatch.setattr(sql, "answer", never)
    assert queried.run() == 0
    s3.client.put_object(Bucket=s3.bucket, Key=f"{key}/in/a.jsonl", Body=lines(*range(31)).encode())
    assert "a.jsonl has rows that it had not" in queried.refusal()
    assert plan_file.SUCCESS in set(queried.store.list(""))


def test_check_answers_without_an_output(queried: Queried) -> None:
    (queried.folder / "job.json").write_text(json.dumps(queried.fields | {"output": {"path": "elsewhere"}}))
    (queried.folder / "job.json").rename(queried.folder / "job.yaml")
    said = in_process(queried.folder, "check", "job.yaml", "--json")
    assert json.loads(said.stdout)["rows"] == 15
    assert not (queried.folder / "elsewhere").exists()


def test_a_dataset_of_the_output_has_the_rows_alone(queried: Queried) -> None:
    assert ds.dataset(str(queried.folder / "out" / "data")).count_rows() == 15

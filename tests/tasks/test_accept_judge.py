"""A judge with a model or an engine of its own: what it is asked, what it costs, what of it belongs to the job."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from batchgen.engines import vllm_cpu
from batchgen.errors import BatchgenError, EngineError, JobError, OutputConflict
from batchgen.init import with_engine
from batchgen.job.job import Job
from batchgen.output import job_file, parts
from batchgen.output.store import open_store
from batchgen.prepare import prepare
from batchgen.replica import preflight
from tests.support.endpoint import Endpoint, Reply, said, serving
from tests.support.rendering import TINY
from tests.support.replicas import answered, blocks, prepared, ran, replica

JUDGE = {"template": "Is {{ response }} right for {{ prompt }}?", "regex": "^yes"}


class Grader(Endpoint):
    """Says yes to every answer to a prompt that has `good`; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.thought = ""
        super().__init__()

    def reply(self, path: str, body: dict[str, Any], headers: Message) -> Reply:
        self.asked.append(body)
        is_good = "good" in body["messages"][-1]["content"].rpartition(" right for ")[2]
        return said(f"{self.thought}yes" if is_good else f"{self.thought}no", tokens=2)


@pytest.fixture
def grader() -> Iterator[Grader]:
    with serving(Grader()) as made:
        yield made


def at(grader: Grader, **fields: Any) -> dict[str, Any]:
    engine = {"kind": "openai", "options": {"base_url": grader.url, "max_retries": 0}}
    return {"judge": {**JUDGE, "model": "grader", "engine": engine, **fields}}


ROWS = [{"prompt": "good one"}, {"prompt": "bad one"}]


def test_the_judge_is_asked_at_its_own_endpoint_and_its_tokens_are_counted_apart(tmp_path: Path, grader: Grader) -> None:
    steered = {"attributes": {"schema": "karakuri", "values": {"verbosity": 2}}, "model": str(TINY)}
    found, receipt = answered(tmp_path, ROWS, accept=at(grader, sampling={"max_tokens": 4}), **steered)
    assert [row["status"] for row in found] == ["ok", "error"]
    assert found[1]["error_detail"] == f"{tmp_path}/in.jsonl:2: accept.judge.regex matches nowhere in its answer: 'no'"
    assert [one["model"] for one in grader.asked] == ["grader"] * 2
    asked = {one["messages"][0]["content"] for one in grader.asked}
    assert asked == {f"Is {row['response']} right for {row['prompt']}?" for row in found}
    assert all(one["messages"] == [{"role": "user", "content": one["messages"][0]["content"]}] for one in grader.asked)
    assert {(one["temperature"], one["max_tokens"]) for one in grader.asked} == {(0.0, 4)}
    assert (receipt.counts.judge_prompt_tokens, receipt.counts.judge_tokens) == (22, 4)
    assert receipt.counts.completion_tokens == sum(row["completion_tokens"] for row in found)
    assert parts.read_footer(open_store(str(tmp_path / "out")), receipt.span)[0] == receipt.counts


def test_all_attempts_are_judged_and_counted(tmp_path: Path, grader: Grader) -> None:
    [row], receipt = answered(tmp_path, [{"prompt": "bad"}], accept=at(grader), errors={"rejected": {"retry": 3}})
    assert (row["attempt"], len(row["attempts"]), len(grader.asked)) == (4, 3, 4)
    assert (receipt.counts.judge_prompt_tokens, receipt.counts.judge_tokens) == (44, 8)


def test_what_a_judge_thinks_is_not_its_answer(tmp_path: Path, grader: Grader) -> None:
    grader.thought = "<think>no, no</think>\n\n"
    thinker = {"source": "grader", "reasoning_parser": {}}
    found, _ = answered(tmp_path, ROWS, accept=at(grader, regex="^(yes|no)$", model=thinker))
    assert [(row["status"], row["error_detail"]) for row in found] == [("ok", None)] * 2


def test_a_judge_of_its_own_takes_answers_that_are_continued(tmp_path: Path, grader: Grader) -> None:
    rows = [{"messages": [{"role": "user", "content": "good"}, {"role": "assistant", "content": "It is"}]}]
    source = {"path": str(tmp_path / "in.jsonl"), "messages": "messages", "continue_final_message": True}
    template = "{{ response }} right for {{ messages[0].content }}"
    [row], _ = answered(tmp_path, rows, input=source, model=str(TINY), accept=at(grader, template=template))
    assert row["status"] == "ok"
    assert grader.asked[0]["messages"][0]["content"].startswith("It is")
    with pytest.raises(JobError, match=r"do not end with a user's message; leave it out, or give accept\.judge\.model"):
        prepared(tmp_path, rows, input=source, model=str(TINY), accept={"judge": {**JUDGE, "template": template}})


def test_each_group_of_replicas_has_the_judge(tmp_path: Path, grader: Grader) -> None:
    groups = [{}, {"engine": {"options": {"max_num_seqs": 4}}}]
    made = prepared(tmp_path, ROWS, accept=at(grader), replicas=groups)
    for group in made.job.groups:
        judge = made.renderer.of_job(group).judge
        assert judge is not None
        assert judge.job.model is not None
        assert (judge.job.engine.kind, judge.job.model.reasoning_parser) == ("openai", "auto")
    alike = prepared(tmp_path, ROWS, accept={"judge": {**JUDGE, "model": str(TINY)}}, replicas=groups)
    judges = [alike.renderer.of_job(group).judge for group in alike.job.groups]
    assert [judge and judge.job.engine.options for judge in judges] == [{}, {"max_num_seqs": 4}], "an engine like the job's"


def test_a_judge_that_cannot_be_reached_ends_the_replica(tmp_path: Path, grader: Grader) -> None:
    made = prepared(tmp_path, ROWS, accept=at(grader))
    grader.server.shutdown()
    grader.server.server_close()
    with pytest.raises(EngineError, match=r"127\.0\.0\.1"):
        ran(replica(made), blocks(made)[0])


def meaning(made: Any) -> dict[str, Any]:
    return dict(job_file.meaning(made.stated, made.renderer.model, (), made.renderer.versions))


def test_the_judges_model_belongs_to_the_meaning_and_how_it_is_reached_does_not(tmp_path: Path, grader: Grader) -> None:
    made = prepared(tmp_path, ROWS, accept=at(grader))
    job_file.freeze(
        open_store(made.job.output.path), made.stated, made.renderer.model, made.columns.kept, (), made.renderer.versions
    )
    store = open_store(made.job.output.path)
    elsewhere = {"kind": "openai", "options": {"base_url": "http://127.0.0.1:1/v1"}, "env": {"A": "b"}}
    same = prepared(tmp_path, ROWS, accept=at(grader, engine=elsewhere))
    assert meaning(same) == meaning(made)
    assert prepare(same.job, store).renderer.judge is not None
    for changed, field in (
        (at(grader, model="another"), "accept.judge.model.source"),
        (at(grader, engine={"kind": "echo"}), "accept.judge.engine.kind"),
        ({"judge": JUDGE}, "accept.judge.model.source"),
    ):
        with pytest.raises(OutputConflict, match=rf"(?s)fields differ:.*{field}"):
            prepare(Job.parse({**made.job.model_dump(by_alias=True), "accept": changed}), store)


def test_a_folder_of_the_judges_is_read_and_has_to_be_the_same_on_a_node(tmp_path: Path) -> None:
    folder = tmp_path / "judge"
    shutil.copytree(TINY, folder)
    judge = {**JUDGE, "model": {"source": str(folder)}, "engine": {"kind": "echo"}}
    made = prepared(tmp_path, ROWS, accept={"judge": judge})
    assert made.renderer.judge is not None
    assert "[INST] hello" in made.renderer.judge.encode([{"role": "user", "content": "hello"}])[0]
    assert meaning(made)["accept.judge.model.digest"] == made.renderer.judge.model.version["digest"]
    assert [*preflight.problems_here(made.renderer)] == []
    with open(folder / "config.json", "ab") as file:
        file.write(b" ")
    [problem] = preflight.problems_here(made.renderer)
    assert str(problem).startswith(f"accept.judge.model.source {folder}: its files on this node are not those of the driver")


@pytest.mark.parametrize(
    ("engine", "judge", "why"),
    [
        (
            {"kind": "echo"},
            {"engine": {"kind": "openai"}},
            "accept.judge.engine.kind openai needs a model; set accept.judge.model",
        ),
        ({"kind": "echo"}, {"engine": {"kind": "ech"}}, "accept.judge: engine.kind ech: no such name"),
        ({"kind": "echo"}, {"engine": {"kind": "echo", "options": {"latensy": 1}}}, "accept.judge: engine.options.latensy"),
        ({"kind": "echo"}, {"model": "no/such/folder/here", "engine": {"kind": "vllm"}}, "no/such/folder/here"),
        ({"kind": "echo"}, {"model": {"sorce": "x"}}, "accept.judge.model.sorce"),
    ],
)
def test_a_judge_that_cannot_be_is_refused_before_anything_runs(tmp_path: Path, engine: Any, judge: Any, why: str) -> None:
    with pytest.raises(BatchgenError) as refused:
        prepared(tmp_path, ROWS, engine=engine, accept={"judge": {**JUDGE, **judge}})
    assert why in str(refused.value)


def test_a_rehearsal_asks_no_endpoint(tmp_path: Path, grader: Grader) -> None:
    made = prepared(tmp_path, ROWS, accept=at(grader), engine={"kind": "openai"}, model="m")
    job = Job.parse(with_engine(made.job.model_dump(by_alias=True), "echo"))
    assert job.judge is not None
    assert job.judge.engine.kind == "echo"
    ran(replica(prepare(job)), blocks(prepare(job))[0])
    assert grader.asked == []


PART = {"gpu_memory_utilization": 0.4}


@pytest.mark.parametrize(
    ("own", "of_judge", "why"),
    [
        (
            {"kind": "echo"},
            {},
            r"engine\.kind vllm needs a gpu, of which the replicas of engine\.kind echo reserve none",
        ),
        ({}, {}, "two models share the memory of a gpu; set gpu_memory_utilization in engine.options and in accept.judge.engine"),
        ({"options": PART}, {}, "two models share"),
        ({}, {"tensor_parallel_size": 2}, "is on one gpu of one node; reach it at an endpoint: kind openai"),
        ({"pipeline_parallel_size": 2}, {}, "is on one gpu of one node"),
        (
            {"tensor_parallel_size": 2, "options": {"gpu_memory_utilization": 0.6}},
            {"options": {"gpu_memory_utilization": 0.3}},
            None,
        ),
    ],
)
def test_two_models_have_to_fit_the_gpus_of_a_replica(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: Any, of_judge: Any, why: str | None
) -> None:
    monkeypatch.setattr(vllm_cpu, "runs_on_cpu", lambda: False)
    judge = {**JUDGE, "model": str(TINY), "engine": {"kind": "vllm", **of_judge}}
    job = {"engine": {"kind": "vllm", **own}, "model": str(TINY), "accept": {"judge": judge}}
    if why is None:
        assert prepared(tmp_path, ROWS, **job).renderer.judge is not None
        return
    with pytest.raises(JobError, match=why):
        prepared(tmp_path, ROWS, **job)

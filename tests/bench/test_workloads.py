"""The bench's workloads: what batchgen renders from its own rows is, text by text, what the other contenders read."""

import json

import pytest

from batchgen.job.job import Job
from batchgen.plan import plan
from batchgen.prepare import prepare
from batchgen.read import reader


@pytest.fixture(scope="module")
def workloads(script):
    return script("bench/workloads.py")


def rendered(job):
    """The prompts of a job with one shard."""
    made = prepare(job)
    [shard], spans = plan.make_plan(job, made.found, made.columns)
    found = reader.read_spans(job, shard, spans, made.columns.kept, made.renderer.needed)
    return [prompt for _, rows, _ in found for row in rows for prompt in made.renderer.prompts(row, shard.name)]


@pytest.mark.parametrize("name", ["A", "B", "C", "D", "E", "F"])
def test_batchgen_renders_what_the_others_read(workloads, tmp_path, name):
    workload = workloads.make(name, 243, 8)
    workloads.write(workload, tmp_path)
    job = Job.parse(
        {
            "input": {"path": str(tmp_path / "job_rows.jsonl"), "prompt": "prompt"},
            "model": {"source": str(workloads.TINY), "chat_template": "none"},
            "engine": {"options": {"max_model_len": 2048}},
            "sampling": {"max_tokens": {"column": "max_tokens"}, "ignore_eos": True},
            "output": {"path": "unused"},
            **workload.job,
        }
    )
    prompts = rendered(job)
    assert [prompt.error for prompt in prompts] == [None] * len(prompts)
    assert [prompt.text for prompt in prompts] == [row["prompt"] for row in workload.rows]
    assert [prompt.sampling.max_tokens for prompt in prompts] == [row["max_tokens"] for row in workload.rows]
    assert (workload.requests, workload.tokens) == (len(prompts), sum(p.sampling.max_tokens for p in prompts))


@pytest.mark.parametrize("how", ["GREEDY", "SAMPLED"])
@pytest.mark.parametrize("name", ["A", "C", "G"])
def test_every_contender_samples_alike_and_only_batchgen_seeds_rows(script, workloads, tmp_path, name, how):
    contenders, sampling = script("bench/contenders.py"), getattr(workloads, how)
    workload = workloads.make(name, 81, 8)
    workloads.write(workload, tmp_path)
    settings = {"folder": str(tmp_path), "model": str(workloads.TINY), "options": {"max_model_len": 2048}, "out": "unused"}
    settings |= {"replicas": 1, "job": workload.job, "sampling": sampling}
    assert contenders.asked(settings, workload.rows[0]) == {**sampling, "ignore_eos": True, "max_tokens": 8}
    (tmp_path / "plain.jinja").write_text(contenders.TEMPLATE)
    found = [prompt.sampling.model_dump() for prompt in rendered(Job.parse(contenders.batchgen_job(settings)))]
    assert [{key: one[key] for key in sampling} for one in found] == [sampling] * len(workload.rows)
    assert len({one["seed"] for one in found}) == len(found)


def test_lengths_are_what_the_workload_says(workloads):
    assert {row["max_tokens"] for row in workloads.make("A", 100, 64).rows} == {64}
    long_tailed = [row["max_tokens"] for row in workloads.make("B", 4_000, 64).rows]
    assert sum(long_tailed) / 4_000 == pytest.approx(64, rel=0.05)
    assert max(long_tailed) > 5 * 64
    turns = workloads.make("G", 10, 32)
    assert (turns.requests, turns.tokens) == (30, 960)
    assert len(json.dumps(workloads.make("D", 1, 8).rows[0]["prompt"])) > 1_200

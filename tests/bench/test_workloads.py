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
    made = prepare(job)
    [shard], spans = plan.make_plan(job, made.found, made.columns)
    found = reader.read_spans(job, shard, spans, made.columns.kept, made.renderer.needed)
    prompts = [prompt for _, rows, _ in found for row in rows for prompt in made.renderer.prompts(row, shard.name)]
    assert [prompt.error for prompt in prompts] == [None] * len(prompts)
    assert [prompt.text for prompt in prompts] == [row["prompt"] for row in workload.rows]
    assert [prompt.sampling.max_tokens for prompt in prompts] == [row["max_tokens"] for row in workload.rows]
    assert (workload.requests, workload.tokens) == (len(prompts), sum(p.sampling.max_tokens for p in prompts))


def test_lengths_are_what_the_workload_says(workloads):
    assert {row["max_tokens"] for row in workloads.make("A", 100, 64).rows} == {64}
    long_tailed = [row["max_tokens"] for row in workloads.make("B", 4_000, 64).rows]
    assert sum(long_tailed) / 4_000 == pytest.approx(64, rel=0.05)
    assert max(long_tailed) > 5 * 64
    turns = workloads.make("G", 10, 32)
    assert (turns.requests, turns.tokens) == (30, 960)
    assert len(json.dumps(workloads.make("D", 1, 8).rows[0]["prompt"])) > 1_200

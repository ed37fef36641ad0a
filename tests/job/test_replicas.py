"""replicas.py: engine sizes, what replicas reserve, and groups of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from batchgen.errors import JobError
from batchgen.job.job import Job
from batchgen.prepare import prepare
from tests.support.jobs import fields, refusal

GROUPS = [
    {"min": 2, "max": 4, "accelerator": "H200"},
    {"min": 0, "accelerator": "A100", "engine": {"tensor_parallel_size": 8, "gpus": 1, "options": {"latency": 1}}},
]


def test_a_job_is_one_of_each_group_with_its_engine() -> None:
    options = {"latency": 2, "max_num_seqs": 3}
    job = Job.parse(
        fields(engine={"kind": "echo", "options": options}, replicas={"groups": GROUPS, "env_from": ["A"], "start_seconds": 9})
    )
    first, second = job.groups
    assert first.engine == job.engine
    assert (second.engine.ranks, second.engine.gpus) == (8, 1)
    assert second.engine.options == {"latency": 1, "max_num_seqs": 3}
    assert [(each.replicas.min, each.replicas.max, each.replicas.accelerator) for each in job.groups] == [
        (2, 4, "H200"),
        (0, None, "A100"),
    ]
    assert all(each.replicas.env_from == ["A"] and each.replicas.start_seconds == 9 for each in job.groups)
    assert all(each.groups == (each,) for each in job.groups)
    assert (job.replicas.most, first.replicas.most) == (None, 4)


def test_a_list_is_short_for_groups_and_can_be_read_as_it_is_stored() -> None:
    job = Job.parse(fields(replicas=GROUPS))
    assert job == Job.parse(fields(replicas={"groups": GROUPS})) == Job.parse(job.model_dump(mode="json", by_alias=True))


def test_a_mapping_is_its_own_group() -> None:
    job = Job.parse(fields(replicas={"min": 2}))
    assert job.groups == (job,)


@pytest.mark.parametrize(
    ("replicas", "engine", "said"),
    [
        ([], {}, "replicas: a list of groups has one group or more"),
        ([{"minn": 1}], {}, "replicas.groups.0.minn: unknown field 'minn', did you mean 'min'?"),
        ([{"engine": {"gpuss": 1}}], {}, "replicas.groups.0.engine.gpuss: unknown field 'gpuss', did you mean 'gpus'?"),
        ([{"min": 0}, {"min": 0}], {}, "replicas: groups: every min is 0; one group must have a replica"),
        ({"groups": [{}], "min": 3}, {}, "replicas: min: with groups, each group has its own"),
        ({"min": 0}, {}, "replicas.min: Input should be greater than or equal to 1"),
        ({"env_from": ["A=secret"]}, {}, "replicas.env_from: 'A' is no name of a variable"),
        ({"start_seconds": 0}, {}, "replicas.start_seconds: Input should be greater than 0"),
        ({"resources": {"GPU": 1}}, {}, "replicas.resources: GPU: engine.gpus and the engine's parallel sizes set it"),
        ({"resources": {"seat": 0}}, {}, "replicas.resources.seat: Input should be greater than 0"),
        (
            [{}, {"engine": {"gpus": 0.5}}],
            {"pipeline_parallel_size": 2},
            "replicas.groups.1.engine: gpus 0.5: expected a whole number, or with one rank (here 2) a fraction of one GPU",
        ),
        ({}, {"gpus": 1.5}, "engine: gpus 1.5: expected a whole number, or with one rank (here 1) a fraction of one GPU"),
        ({}, {"gpus": 0}, "engine.gpus: Input should be greater than 0"),
    ],
)
def test_a_mistake_is_named(replicas: Any, engine: dict[str, Any], said: str) -> None:
    assert refusal(fields(replicas=replicas, engine=engine)) == f"job: {said}"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"latencyy": 1}, r"replicas\.groups\.1: engine\.options\.latencyy: unknown"),
        ({"max_model_len": 99}, r"replicas\.groups\.1: the context of its engine is 99, the job's None"),
    ],
)
def test_the_options_of_each_group_are_checked(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    (tmp_path / "in.jsonl").write_text('{"prompt": "a"}\n')
    made = fields(input={"path": str(tmp_path / "in.jsonl")}, replicas=[{}, {"engine": {"options": options}}])
    with pytest.raises(JobError, match=said):
        prepare(Job.parse(made))

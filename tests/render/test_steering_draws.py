"""Variants that are listed or drawn: `attributes.sweep` as a list, `attributes.sample`."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from batchgen.job.job import Job
from batchgen.render.steering import Steering
from tests.support.jobs import fields, refusal
from tests.support.rendering import bare, prompts
from tests.support.replicas import answered

POINTS = [{"verbosity": 0}, {"verbosity": 4, "humor": 4}, {"humor": 2.0}]


def drawn(sample: Any, shard: str = "s", rows: int = 1) -> list[list[dict[str, int]]]:
    steering = Steering(Job.parse(fields(attributes={"sample": sample})).attributes)
    return [steering.variants(shard, row) for row in range(rows)]


def test_a_list_of_combinations_makes_one_variant_each() -> None:
    job = Job.parse(fields(attributes={"sweep": POINTS}))
    assert Steering(job.attributes).variants("s", 3) == [{"verbosity": 0}, {"verbosity": 4, "humor": 4}, {"humor": 2}]
    assert job.variants == 3
    assert job.attributes is not None
    assert job.attributes.varied == ["verbosity", "humor"]


def test_draws_depend_on_the_seed_and_the_rows_name_alone() -> None:
    sample = {"k": 3, "from": POINTS}
    first = drawn(sample, rows=200)
    steering = Steering(Job.parse(fields(attributes={"sample": sample})).attributes)
    assert first[:99:-1] == [steering.variants("s", row) for row in range(199, 99, -1)], "in whatever order they are asked for"
    assert first != drawn({**sample, "seed": 1}, rows=200)
    assert first != drawn(sample, shard="other", rows=200)
    assert len({json.dumps(row) for row in first}) > 10


def test_a_combination_comes_as_often_as_its_weight_says() -> None:
    [*rows] = drawn({"k": 4, "from": [{"verbosity": 1, "weight": 3}, {"verbosity": 2}]}, rows=2_000)
    counted = Counter(point["verbosity"] for row in rows for point in row)
    assert 2.6 < counted[1] / counted[2] < 3.4


def test_other_combinations_are_another_job() -> None:
    def meaning(points: Any) -> dict[str, Any]:
        return Job.parse(fields(attributes={"sample": {"k": 1, "from": points}})).meaning()

    one, other = meaning(POINTS), meaning(POINTS[:2])
    assert [key for key in one if one[key] != other[key]] == ["attributes.sample.from"]


@pytest.mark.parametrize(
    ("attributes", "cause"),
    [
        ({"sweep": [{"verbosity": 5}]}, "sweep: combination 1: verbosity: 5 is not an integer 0..4"),
        ({"sweep": [{}]}, "sweep: combination 1 sets nothing"),
        ({"sweep": [{"humor": 1, "weight": 2}]}, "sweep: combination 1: weight: no such attribute in schema custom"),
        ({"sample": {"k": 1, "from": [{"wit": 1}]}}, "sample.from: combination 1: wit: no such attribute in schema custom"),
        (
            {"sample": {"k": 1, "from": [{"humor": 1, "weight": 0}]}},
            "sample.from: combination 1: weight 0 is not a number",
        ),
        ({"sample": {"k": 1, "from": POINTS}, "sweep": {"humor": [1]}}, "sample and sweep both make variants"),
    ],
)
def test_senseless_draws_are_refused(attributes: Any, cause: str) -> None:
    assert refusal(fields(attributes=attributes)).startswith(f"job: attributes: {cause}")


def test_drawn_values_are_in_the_prompt_and_in_the_output(tmp_path: Path) -> None:
    sample = {"k": 2, "from": [{"verbosity": n, "humor": 4 - n} for n in range(5)]}
    renderer = bare(attributes={"schema": "karakuri", "sample": sample, "values": {"quality": 1}})
    made = [prompt for row in range(20) for prompt in prompts(renderer, row, prompt="Hello")]
    assert {prompt.variant for prompt in made} == {0, 1}
    for prompt in made:
        assert prompt.attributes is not None
        assert prompt.attributes["verbosity"] + prompt.attributes["humor"] == 4
        assert f"verbosity: {prompt.attributes['verbosity']} quality: 1" in prompt.text
    assert len({prompt.text for prompt in made}) == 5
    rows, _ = answered(tmp_path, [{"prompt": "a"}], attributes={"schema": "karakuri", "sample": sample})
    assert [(row["variant"], row["attributes"]["verbosity"] + row["attributes"]["humor"]) for row in rows] == [(0, 4), (1, 4)]

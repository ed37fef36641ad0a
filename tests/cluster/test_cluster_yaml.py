"""cluster.yaml against the schema that Ray ships, and against the jobs that it is for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml

from batchgen.job.job import Job

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    return found


def test_the_cluster_file_fits_rays_schema(cluster: dict[str, Any]) -> None:
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(cluster, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**cluster, "max_wrokers": 1}, schema)


def test_the_head_is_a_cpu_node_and_a_gpu_node_holds_a_70b_replica(cluster: dict[str, Any]) -> None:
    types = cluster["available_node_types"]
    job = Job.load(ROOT / "jobs/karakuri-70b.yaml")
    assert types[cluster["head_node_type"]]["resources"]["GPU"] == 0
    assert types["gpu"]["resources"]["GPU"] >= job.engine.tensor_parallel_size == 4
    assert types["gpu"]["min_workers"] == 0
    assert types["gpu"]["max_workers"] > 0


def test_the_cluster_file_holds_no_secret(cluster: dict[str, Any]) -> None:
    text = (ROOT / "cluster.yaml").read_text().lower()
    assert not any(word in text for word in ("aws_access_key", "aws_secret", "hf_token="))
    assert cluster["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"

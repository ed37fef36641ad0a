"""`batchgen schema`: a JSON Schema that takes what the program takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.support.commands import in_process as batchgen

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Any:
    done = batchgen(tmp_path_factory.mktemp("schema"), "schema")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_schema_is_one(schema: Any) -> None:
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"


@pytest.mark.parametrize("job", sorted((REPOSITORY / "jobs").rglob("*.yaml")), ids=lambda path: path.name)
def test_every_job_of_the_repository_is_valid_by_the_schema(schema: Any, job: Path) -> None:
    mistakes = jsonschema.Draft202012Validator(schema).iter_errors(yaml.safe_load(job.read_text(encoding="utf-8")))
    assert [mistake.message for mistake in mistakes] == []


@pytest.mark.parametrize(
    "change",
    [{"inptu": {}}, {"sampling": {"temprature": 1}}, {"sampling": {"n": 0}}, {"engine": {"kind": None}}, {"input": {}}],
)
def test_the_schema_refuses_what_the_program_refuses(schema: Any, change: dict[str, Any]) -> None:
    job = {"input": {"path": "x", "prompt": "p"}, "output": {"path": "o"}}
    validator = jsonschema.Draft202012Validator(schema)
    assert validator.is_valid(job)
    assert validator.is_valid(job | {"sampling": {"n": {"column": "count"}}, "attributes": {"schema": "karakuri"}})
    assert not validator.is_valid(job | change)

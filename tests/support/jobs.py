"""What the tests of job files have in common: a small valid job to change, and what is said of an invalid one."""

from __future__ import annotations

from typing import Any

import pytest

from batchgen.errors import BAD_JOB, JobError
from batchgen.job.job import Job


def fields(**changes: Any) -> dict[str, Any]:
    """A small valid job; a changed section is merged one level deep."""
    made: dict[str, Any] = {
        "input": {"path": "in.jsonl", "prompt": "prompt"},
        "attributes": {
            "schema": {"names": ["verbosity", "humor"], "range": [0, 4], "layout": {"block": "({pairs})"}},
            "values": {"verbosity": 2},
        },
        "engine": {"kind": "echo"},
        "sampling": {"temperature": 0.7},
        "output": {"path": "out"},
    }
    for section, value in changes.items():
        merge = isinstance(value, dict) and isinstance(made.get(section), dict)
        made[section] = {**made[section], **value} if merge else value
    return made


def refusal(made: dict[str, Any]) -> str:
    with pytest.raises(JobError) as caught:
        Job.parse(made)
    assert caught.value.exit_code == BAD_JOB
    return str(caught.value)

"""drive.py: when a driver stops by itself."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from batchgen.drive import _reason_to_stop
from batchgen.planfile import Plan
from batchgen.records import Counts
from batchgen.report import Tally
from batchgen.spec import Job


def reason(limits: dict[str, Any], seconds: float = 0.0, tokens: int = 0, stopping: bool = False) -> str:
    source = {"path": "x", "prompt": "p"}
    job = Job.parse({"input": source, "engine": {"kind": "echo"}, "output": {"path": "o"}, "limits": limits})
    tally = Tally(Plan((), [], 1), counts=Counts(completion_tokens=tokens))
    return _reason_to_stop(job, tally, seconds, lambda: stopping)


def at(hours: float) -> str:
    zone = datetime.timezone(datetime.timedelta(hours=9))
    return (datetime.datetime.now(zone) + datetime.timedelta(hours=hours)).isoformat()


@pytest.mark.parametrize(
    ("given", "start"),
    [
        ({}, ""),
        ({"stopping": True}, "interrupted"),
        ({"tokens": 9, "limits": {"tokens": 10}}, ""),
        ({"tokens": 10, "limits": {"tokens": 10}}, "limits.tokens 10 reached"),
        ({"seconds": 3599, "limits": {"hours": 1}}, ""),
        ({"seconds": 3600, "limits": {"hours": 1}}, "limits.hours 1.0 reached"),
        ({"limits": {"deadline": at(1)}}, ""),
        ({"limits": {"deadline": at(-1)}}, "limits.deadline "),
    ],
)
def test_a_driver_stops_when_it_is_told_or_a_limit_is_reached(given: dict[str, Any], start: str) -> None:
    found = reason(**{"limits": {}, **given})
    assert found.startswith(start)
    assert bool(found) == bool(start)

"""drive.py: when a driver stops by itself, and what it tells Ray."""

from __future__ import annotations

import datetime
import os
from typing import Any

import pytest
from ray.data._internal.usage.collector import usage_collection_disabled

from batchgen.cluster import driver
from batchgen.cluster.driver import _reason_to_stop
from batchgen.job.job import Job
from batchgen.output.plan_file import Plan
from batchgen.output.progress import Tally
from batchgen.records import Counts


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


@pytest.mark.parametrize(("given", "kept"), [(None, "1"), ("0", "0")])
def test_ray_data_sends_no_usage_statistics_unless_told_to(monkeypatch: pytest.MonkeyPatch, given: str | None, kept: str) -> None:
    """Also on a Ray that the caller has connected."""
    monkeypatch.setattr(driver.ray, "is_initialized", lambda: True)
    monkeypatch.setenv("RAY_DATA_USAGE_DISABLED", given or "")
    if given is None:
        monkeypatch.delenv("RAY_DATA_USAGE_DISABLED")
    seen: list[tuple[bool, str, bool]] = []
    driver.on_ray(lambda own: seen.append((own, os.environ["RAY_DATA_USAGE_DISABLED"], usage_collection_disabled())))
    assert seen[0][:2] == (False, kept)
    assert seen[0][2] or given

"""limits.py: when a run ends before its last span."""

from __future__ import annotations

import datetime
from contextlib import nullcontext
from typing import Any

import pytest

from batchgen.cluster.limits import EARLY_ERRORS, reason_to_stop, refuse_errors
from batchgen.errors import TooManyErrors
from batchgen.job.job import Limits
from batchgen.output.plan_file import Plan
from batchgen.output.progress import Tally
from batchgen.records import Counts, Span


def at(hours: float) -> str:
    zone = datetime.timezone(datetime.timedelta(hours=9))
    return (datetime.datetime.now(zone) + datetime.timedelta(hours=hours)).isoformat()


@pytest.mark.parametrize(
    ("limits", "tokens", "seconds", "start"),
    [
        ({}, 10**9, 10.0**9, None),
        ({"tokens": 10}, 9, 0.0, None),
        ({"tokens": 10}, 10, 0.0, "limits.tokens 10 reached"),
        ({"hours": 1}, 0, 3599.0, None),
        ({"hours": 1}, 0, 3600.0, "limits.hours 1.0 reached"),
        ({"deadline": at(1)}, 0, 0.0, None),
        ({"deadline": at(-1)}, 0, 0.0, "limits.deadline "),
    ],
)
def test_a_run_stops_when_a_limit_is_reached(limits: dict[str, Any], tokens: int, seconds: float, start: str | None) -> None:
    found = reason_to_stop(Limits(**limits), tokens, seconds)
    assert found is None if start is None else str(found).startswith(start)


def tally(ok: int, error: int, planned: int) -> Tally:
    """Of `planned` rows, so many are finished."""
    spans = [Span(0, 0, 0, planned - ok - error, 0, 0)]
    return Tally(Plan((), spans, 1), counts=Counts(ok=ok, error=error), samples=["input: in.jsonl:1: no json"])


@pytest.mark.parametrize(
    ("ok", "error", "planned", "allowed", "refused"),
    [
        (0, EARLY_ERRORS - 1, 100_000, 0.0, False),
        (0, EARLY_ERRORS, 100_000, 0.01, True),
        (EARLY_ERRORS, EARLY_ERRORS, 100_000, 0.01, False),
        (EARLY_ERRORS - 1, EARLY_ERRORS, 100_000, 0.01, True),
        (90_000, 1_001, 100_000, 0.01, True),
        (90_000, 1_000, 100_000, 0.01, False),
        (0, 100_000, 100_000, 1.0, False),
    ],
    ids=["too few to judge", "the first all failed", "half of the first", "most of the first", "over", "just allowed", "all may"],
)
def test_a_run_stops_early_when_too_many_rows_fail(ok: int, error: int, planned: int, allowed: float, refused: bool) -> None:
    expected = (
        pytest.raises(TooManyErrors, match=r"first: input: in\.jsonl:1: no json; mend the job") if refused else nullcontext()
    )
    with expected:
        refuse_errors(tally(ok, error, planned), allowed)

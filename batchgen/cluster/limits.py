"""When a run ends before its last span: a limit of the job, or too many failed rows. No Ray, no I/O."""

import datetime

from batchgen.errors import TooManyErrors
from batchgen.job.job import Limits
from batchgen.output.progress import Tally, over_limit

EARLY_ERRORS = 100  # failed rows below which a run is never stopped early
EARLY_FRACTION = 0.5  # failed rows per finished one that stop a run before its limit is sure to be broken


def reason_to_stop(limits: Limits, completion_tokens: int, seconds: float) -> str | None:
    """The limit that a run of `seconds` has reached with its job's `completion_tokens`; None while there is none."""
    if limits.tokens is not None and completion_tokens >= limits.tokens:
        return f"limits.tokens {limits.tokens} reached"
    if limits.hours is not None and seconds >= limits.hours * 3600:
        return f"limits.hours {limits.hours} reached"
    if limits.deadline is not None and datetime.datetime.now(datetime.UTC) >= limits.deadline:
        return f"limits.deadline {limits.deadline} reached"
    return None


def refuse_errors(tally: Tally, allowed: float) -> None:
    """Raises TooManyErrors when more than `allowed` of the planned rows have failed, or most of the first ones."""
    failed, finished = tally.counts.error, tally.counts.rows
    if failed < EARLY_ERRORS or failed <= allowed * finished:
        return
    if failed > allowed * tally.rows_planned or failed > max(allowed, EARLY_FRACTION) * finished:
        raise TooManyErrors(
            f"stopped early: {over_limit(tally, allowed)}; first: {tally.samples[0] if tally.samples else '?'}",
            "mend the job or the input, or raise limits.errors and run again to go on",
        )

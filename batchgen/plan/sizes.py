"""How many rows a span has: enough spans to spread over a pool, few enough to list, smaller ones at the plan's end. A pool of
one has nothing to spread: its spans are few and of one size, since each part costs as much as some hundred rows."""

from dataclasses import dataclass

from batchgen.job.job import Job

SPANS_CAP = 250_000
LEAST_COMPLETIONS, MOST_COMPLETIONS = 32, 2_048
SHARES, SHARES_ALONE = 16, 8
TAIL_SHARES = 4


@dataclass(frozen=True)
class Sizes:
    """How many input rows a span has: `most`, and towards the end of the plan fewer, down to `least`, so that
    the replicas of a pool run out of work together (guided self-scheduling: a share of what is left)."""

    most: int
    least: int
    pool: int

    def rows(self, left: float) -> int:
        """Rows of a span after whose start about `left` rows are still to be planned."""
        return max(self.least, min(self.most, int(left / (TAIL_SHARES * self.pool))))


def span_sizes(job: Job, estimate: int) -> Sizes:
    """Sizes for about `estimate` input rows: enough spans to spread over the pool, 32 to 2,048 completions each,
    and no more spans than a listing stays quick for."""
    pool = job.replicas.max or 8
    if job.spans.rows is not None:
        return Sizes(job.spans.rows, job.spans.rows, pool)
    completions = estimate * job.variants * job.samples
    shares = pool * SHARES if pool > 1 else SHARES_ALONE
    most = max(LEAST_COMPLETIONS, min(MOST_COMPLETIONS, completions // shares), completions // SPANS_CAP)
    least = LEAST_COMPLETIONS if pool > 1 else most
    factor = job.variants * job.samples
    return Sizes(max(1, most // factor), max(1, least // factor), pool)

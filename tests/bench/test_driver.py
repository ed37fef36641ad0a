"""The measurement of the driver's loop: it runs, and every span is counted once."""

import json

import pytest

from batchgen.output.progress import PROGRESS, Saved, Tally
from batchgen.output.store import LocalStore


@pytest.fixture(scope="module")
def bench(script):
    return script("bench/driver.py")


@pytest.mark.parametrize(("replicas", "turn"), [(1, 1), (3, 2), (5, 50)])
def test_every_span_is_assigned_and_counted_once(bench, replicas, turn):
    found = bench.run(replicas, open_spans=4, spans=60, planned=100, turn=turn)
    assert (found["assigned"], found["counted"]) == (60, 60)


def test_the_progress_of_a_large_plan_names_the_counted_spans(bench, tmp_path):
    plan, store = bench.a_plan(20_001), LocalStore(tmp_path)
    tally = Tally(plan)
    for span in plan.spans[::7]:
        tally.add(span.name, bench.Counts(ok=bench.ROWS), {})
    store.put(PROGRESS, tally.encode())
    again = Tally(plan)
    again.restore(Saved.model_validate(json.loads(store.get(PROGRESS))), {span.name for span in plan.spans})
    assert again.counted == tally.counted == {span.name for span in plan.spans[::7]}
    assert (again.rows_planned, again.encode()) == (tally.rows_planned, tally.encode())

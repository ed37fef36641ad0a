"""The size of a pool: a table of states, and pools that live through a job."""

from __future__ import annotations

import dataclasses
import random

import pytest

from batchgen.cluster.policy.size import Rival, State, fair_part, target

PLENTY = State(
    *(1, None),
    holds=4,
    could_hold=None,
    alive=4,
    starting=0,
    busy=4,
    waiting=100,
    running=8,
    feed_ended=False,
)
TAIL = {"waiting": 0, "feed_ended": True, "running": 1, "busy": 1}
RIVAL = (Rival(),)

TABLE = {
    "as many as the cluster holds": ({}, 4),
    "grows with the cluster": ({"holds": 6}, 6),
    "asks the autoscaler for what its node types allow": ({"holds": 0, "could_hold": 4, "alive": 0, "busy": 0}, 4),
    "no more than max": ({"holds": 8, "most": 5}, 5),
    "max is asked for where nobody knows what may come": ({"most": 9}, 9),
    "max is cut where the node types are known": ({"most": 9, "could_hold": 6}, 6),
    "min is asked for though nothing holds it": ({"holds": 0, "alive": 0, "busy": 0, "least": 3}, 3),
    "one is asked for though nothing holds it": ({"holds": 0, "alive": 0, "busy": 0}, 1),
    "never more than spans": ({"holds": 64, "waiting": 3, "running": 2}, 5),
    "min is never more than spans either": ({"least": 8, "waiting": 1, "running": 1}, 2),
    "a cluster that holds fewer releases none": ({"holds": 2}, 4),
    "left-out nodes hold none": ({"holds": 6, "left_out": 1, "alive": 3, "busy": 3}, 5),
    "the tail keeps the busy one and a spare": (TAIL, 2),
    "the tail does not grow": ({**TAIL, "alive": 1}, 1),
    "nor does min keep idle ones": ({**TAIL, "least": 4}, 2),
    "no tail before the feed has ended": ({**TAIL, "feed_ended": False, "running": 4, "busy": 4, "least": 1}, 4),
    "a span of the dead ends the tail": ({**TAIL, "waiting": 2, "alive": 2}, 3),
    "nothing left": ({**TAIL, "running": 0, "busy": 0}, 0),
    "half with an equal rival": ({"holds": 8, "alive": 2, "busy": 2, "rivals": RIVAL}, 4),
    "yields to it": ({"holds": 8, "alive": 8, "busy": 8, "rivals": RIVAL}, 4),
    "not before the pool is calm": ({"holds": 8, "alive": 8, "busy": 8, "rivals": RIVAL, "calm": 5.0}, 8),
    "by share": ({"holds": 8, "share": 0.75, "rivals": (Rival(share=0.25),)}, 6),
    "all to a higher priority, but min": ({"holds": 8, "rivals": (Rival(priority=1),)}, 1),
    "all from a lower one": ({"holds": 8, "rivals": (Rival(priority=-1),)}, 8),
    "what a rival does not want": ({"holds": 8, "rivals": (Rival(wants=1),)}, 7),
    "an odd one out: who is below waits": ({"holds": 5, "alive": 2, "busy": 2, "rivals": RIVAL}, 2),
    "an odd one out: who has it keeps it": ({"holds": 5, "alive": 3, "busy": 3, "rivals": RIVAL}, 3),
}


@pytest.mark.parametrize("name", TABLE)
def test_target(name: str) -> None:
    changes, expected = TABLE[name]
    assert target(dataclasses.replace(PLENTY, **changes)) == expected


def test_parts_of_all_jobs_are_the_cluster() -> None:
    dice = random.Random(1)
    for _ in range(500):
        jobs = [Rival(dice.choice((0.25, 0.5, 1.0)), dice.randint(0, 1), dice.choice((2.0, 5.0, 50.0))) for _ in range(4)]
        parts = [
            fair_part(20, job.wants, job.share, job.priority, tuple(other for other in jobs if other is not job)) for job in jobs
        ]
        assert sum(parts) == pytest.approx(min(20, sum(job.wants for job in jobs)))


def test_a_pool_that_follows_its_target_comes_to_rest() -> None:
    """Whatever the state, and while nothing else changes: what is asked for does not change again."""
    dice = random.Random(2)
    for _ in range(2000):
        alive = dice.randint(0, 9)
        busy = dice.randint(0, alive)
        state = State(
            *(dice.randint(1, 4), dice.choice((None, 4, 8))),
            holds=dice.randint(0, 9),
            could_hold=dice.choice((None, 4, 12)),
            alive=alive,
            starting=dice.randint(0, 3),
            busy=busy,
            waiting=dice.randint(0, 9),
            running=busy * dice.randint(1, 2),
            feed_ended=dice.random() < 0.5,
            rivals=dice.choice(((), RIVAL, (Rival(0.3, 1, 2.0), Rival(0.5)))),
        )
        wanted = target(state)
        ready = max(0, min(state.alive + state.starting, wanted))
        later = dataclasses.replace(state, alive=ready, starting=wanted - ready, busy=min(busy, ready))
        assert target(later) == wanted, state


def test_two_jobs_share_a_cluster_and_the_second_gets_it_all_when_the_first_ends() -> None:
    first = dataclasses.replace(PLENTY, holds=8, alive=8, busy=8, rivals=RIVAL)
    second = dataclasses.replace(PLENTY, holds=8, alive=0, busy=0, rivals=RIVAL)
    assert (target(first), target(second)) == (4, 4)
    assert target(dataclasses.replace(second, alive=4, rivals=())) == 8

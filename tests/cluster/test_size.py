"""The size of a pool: a table of states, and pools that live through a job."""

from __future__ import annotations

import dataclasses
import random

import pytest

from batchgen.cluster.policy.size import State, target

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
    "no more than its part": ({"holds": 8, "alive": 2, "busy": 2, "part": 4}, 4),
    "yields to another job": ({"holds": 8, "alive": 8, "busy": 8, "part": 4}, 4),
    "keeps one where another has all": ({"holds": 8, "least": 3, "part": 0}, 1),
    "no more than it wants of its part": ({"holds": 8, "most": 3, "part": 5}, 3),
    "one of the jobs asks for nodes that may come": ({"could_hold": 9, "part": 2, "asks": True, "placed": 2}, 7),
    "not while it has too many": ({"could_hold": 9, "part": 2, "asks": True, "placed": 3}, 2),
    "the others do not": ({"could_hold": 9, "part": 2, "placed": 2}, 2),
    "the tail of a part": ({**TAIL, "part": 1}, 2),
}


@pytest.mark.parametrize("name", TABLE)
def test_target(name: str) -> None:
    changes, expected = TABLE[name]
    assert target(dataclasses.replace(PLENTY, **changes)) == expected


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
            part=dice.choice((None, 0, 3)),
            asks=dice.random() < 0.5,
        )
        wanted = target(state)
        ready = max(0, min(state.alive + state.starting, wanted))
        later = dataclasses.replace(state, alive=ready, starting=wanted - ready, busy=min(busy, ready))
        assert target(later) == wanted, state

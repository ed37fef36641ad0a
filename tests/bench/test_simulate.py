"""The simulation of pools: what it says of the dispatcher that runs in a job, span sizes and the order of rows included."""

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def sim(script):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        yield script("bench/simulate.py")


def world(sim, **changes):
    shape = {"replicas": 2, "rows": 6_000, "sequences": 64, "mean": 60.0, "cold": 1.0}
    return sim.World(**{**shape, **changes})


def test_one_replica_alone_takes_as_long_as_its_tokens_need(sim):
    flat = world(sim, replicas=1, sigma=0.0, rows=64 * 20, slope=0.0, cold=1e-6)
    outcome = sim.simulate(flat)
    assert outcome.makespan == pytest.approx(20 * 59 * flat.base, rel=0.02)
    assert outcome.utilisation == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize("seed", range(4))
def test_two_equal_replicas_with_one_giant_shard_end_together(sim, seed):
    assert sim.simulate(world(sim, seed=seed)).tail <= 0.05


@pytest.mark.parametrize("seed", range(3))
def test_shrinking_spans_and_longer_rows_first_use_a_pool_no_worse_than_plain_ones(sim, seed):
    shape = {"replicas": 8, "rows": 16_000, "seed": seed}
    ours = sim.simulate(world(sim, **shape))
    plain = sim.simulate(world(sim, **shape, shrink=False, longest_first=False))
    assert ours.utilisation >= 0.99 * plain.utilisation


def test_deaths_cost_rows_done_twice_and_the_job_still_ends(sim):
    calm, deadly = sim.simulate(world(sim, replicas=4)), sim.simulate(world(sim, replicas=4, deaths=60.0))
    assert calm.redone == pytest.approx(0.0)
    assert deadly.redone > 0
    assert deadly.makespan > calm.makespan


def test_a_journal_saves_rows_of_dead_replicas(sim):
    shape = {"replicas": 4, "rows": 24_000, "deaths": 60.0}
    often, never = sim.simulate(world(sim, **shape, journal=5.0)), sim.simulate(world(sim, **shape, journal=0.0))
    assert 0 < often.redone < 0.5 * never.redone


def test_idle_replicas_are_released_while_the_last_rows_run(sim):
    job = sim.Simulation(world(sim, replicas=8, known=False, sigma=1.5))
    gone = []
    job.gone, tell = lambda name: (gone.append((job.now, job.target)), tell(name)), job.gone
    outcome = job.run()
    early = [now for now, _ in gone if now < outcome.makespan]
    assert early, "a replica left before the end"
    assert min(early) > job.first_idle
    assert min(target for now, target in gone if now < outcome.makespan) < 8


@pytest.mark.parametrize("deaths", [0.0, 60.0])
def test_a_replica_that_runs_ahead_of_the_events_does_as_one_that_stops_at_every_row(sim, deaths):
    shape = {"known": False, "deaths": deaths, "replicas": 3}
    ahead, stepping = sim.simulate(world(sim, **shape)), sim.Simulation(world(sim, **shape))
    follow, generate = stepping.follow, sim.Replica.generate

    def stop_at_each(name):
        follow(name)
        replica = stepping.replicas[name]
        if not (replica.free or replica.ended or replica.has_room) and replica.next_row < replica.dies:
            stepping.at(replica.next_row, "rows", name, replica.version)

    stepping.follow = stop_at_each
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sim.Replica, "generate", lambda self, until: generate(self, min(until, stepping.now)))
        assert stepping.run() == ahead


def test_a_slow_feed_shows_as_utilisation_lost(sim):
    assert sim.simulate(world(sim, feed=0.2)).utilisation < 0.7 * sim.simulate(world(sim)).utilisation


@pytest.mark.parametrize("known", [True, False])
def test_one_slow_replica_of_many_costs_little(sim, known):
    shape = {"replicas": 16, "rows": 16_000, "mean": 300.0, "known": known, "cold": 30.0}
    equal, unequal = sim.simulate(world(sim, **shape)), sim.simulate(world(sim, **shape, slow=1))
    assert unequal.up >= 0.93 * equal.up
    assert unequal.redone <= 0.05


def test_a_pool_of_two_kinds_is_used_by_their_speeds(sim):
    shape = {"replicas": 8, "rows": 16_000, "mean": 300.0, "known": False, "cold": 30.0}
    assert sim.simulate(world(sim, **shape, slow=4, slower=2.0)).up >= 0.84

"""The books of a pool, on a stand-in for Ray whose calls return when a test says so; test_pool.py has Ray itself."""

from __future__ import annotations

import concurrent.futures
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayError, RayTaskError

from batchgen import logs
from batchgen.cluster import actor
from batchgen.cluster import pool as pools
from batchgen.cluster.placement import place
from batchgen.cluster.policy.dispatch import Capacity, Died, Finished, Ready, Said
from batchgen.cluster.state import members
from batchgen.cluster.state.ray_adapter import Living
from batchgen.errors import EngineError
from tests.support.replicas import prepared

NODE, ADDRESS = 7 * "01234567", "10.0.0.7"


class Call:
    """A call of an actor or a task, and its reference."""

    def __init__(self, method: str, replica: int) -> None:
        self.method, self.replica = method, replica
        self._future: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def future(self) -> concurrent.futures.Future[Any]:
        return self._future


class Rays:
    """What pool.py asks of the module `ray`."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.killed: list[int] = []
        self.nodes: dict[str, Living] = {}

    def put(self, value: object) -> object:
        return value

    def remote(self, _: object) -> Any:
        return self

    def options(self, **_: object) -> Any:
        def start(*arguments: Any) -> Any:
            return Actor(self, arguments[1]) if len(arguments) == 6 else self.made("tail", 0)

        return SimpleNamespace(remote=start)

    def made(self, method: str, replica: int) -> Call:
        self.calls.append(Call(method, replica))
        return self.calls[-1]

    def wait(self, calls: list[Call], num_returns: int, timeout: float) -> tuple[list[Call], list[Call]]:
        assert len({call.replica for call in calls}) == 1, "never over the calls of all replicas"
        return [call for call in calls if call.future().done()], []

    def get(self, call: Call, timeout: float | None = None) -> Any:
        return call.future().result(timeout=0)

    def kill(self, actor: Any, no_restart: bool) -> None:
        self.killed.append(actor.replica)

    def answer(self, method: str, replica: int, value: object) -> None:
        """Let the first open call of this kind return, or raise an error."""
        call = next(one for one in self.calls if (one.method, one.replica) == (method, replica) and not one.future().done())
        if isinstance(value, BaseException):
            call.future().set_exception(value)
        else:
            call.future().set_result(value)


class Actor:
    def __init__(self, rays: Rays, replica: int) -> None:
        self._rays, self.replica = rays, replica

    def __getattr__(self, method: str) -> Any:
        return SimpleNamespace(remote=lambda *_: self._rays.made(method, self.replica))


@pytest.fixture
def rays(monkeypatch: pytest.MonkeyPatch) -> Rays:
    made = Rays()
    made.nodes[NODE] = Living({"CPU": 2.0}, {"CPU": 2.0}, {}, False)
    for module in (actor, members, pools):
        monkeypatch.setattr(module, "ray", made)
    monkeypatch.setattr(pools, "living_nodes", lambda: made.nodes)
    return made


@pytest.fixture
def pool(rays: Rays, tmp_path: Path) -> pools.Pool:
    made = prepared(tmp_path, [{"prompt": "a row"}], replicas={"min": 2, "max": 2, "start_seconds": 100})
    return pools.Pool(made.renderer, made.job.output.path, (), set(), place(made.job, 2, ()))


def events(pool: pools.Pool) -> list[Any]:
    return list(pool.wait(0.0))


def started(rays: Rays, pool: pools.Pool) -> None:
    for replica in (1, 2):
        rays.answer("where", replica, (NODE, ADDRESS, "/a/log"))
        rays.answer("start_here", replica, ({"capacity": 1}, NODE, "2"))
    assert events(pool) == [Ready(1, {"capacity": 1}, "2"), Ready(2, {"capacity": 1}, "2")]


def test_events_come_in_the_order_in_which_calls_return_and_each_once(rays: Rays, pool: pools.Pool) -> None:
    assert events(pool) == []
    started(rays, pool)
    assert pool.alive == pool.staying == {1, 2}
    pool.assign(2, "block", False)
    rays.answer("capacity_left", 2, 0.0)
    rays.answer("run", 2, "receipt")
    rays.answer("capacity_left", 1, 3.0)
    assert events(pool) == [Capacity(2, 0.0), Finished(2, "block", "receipt"), Capacity(1, 3.0)]  # type: ignore[arg-type]
    assert events(pool) == []


def test_what_starts_and_what_is_not_committed_is_told(rays: Rays, pool: pools.Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pool.waits_for == ""
    rays.answer("where", 2, (NODE, ADDRESS, "/a/log"))
    rays.answer("where", 1, (NODE, ADDRESS, "/a/log"))
    events(pool)
    later = time.monotonic() + 12
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert pool.waits_for == f"the model to load (12 s, node {NODE[:12]} ({ADDRESS}) and 1 more)"
    for replica in (1, 2):
        rays.answer("start_here", replica, ({"capacity": 1}, NODE, ""))
    events(pool)
    assert (pool.waits_for, pool.uncommitted) == ("", 0)
    look(pool)
    look(pool)
    assert [call.replica for call in rays.calls if call.method == "uncommitted"] == [1, 2]
    rays.answer("uncommitted", 1, 7)
    rays.answer("uncommitted", 2, 5)
    assert (events(pool), pool.uncommitted) == ([], 12)


def test_a_replica_that_dies_is_told_with_its_node_and_then_with_the_end_of_its_log(rays: Rays, pool: pools.Pool) -> None:
    started(rays, pool)
    pool.assign(1, "done", False)
    pool.assign(1, "open", False)
    rays.answer("run", 1, "receipt")
    [first] = [call for call in rays.calls if call.method == "capacity_left" and call.replica == 1]
    first.future().set_exception(ActorDiedError())
    found = events(pool)
    assert found[0] == Finished(1, "done", "receipt")  # type: ignore[arg-type]
    assert isinstance(found[1], Died)
    assert (found[1].replica, found[1].where) == (1, f"node {NODE[:12]} ({ADDRESS})")
    assert (rays.killed, pool.alive, pool.where(1)) == ([1], {2}, "")
    rays.answer("tail", 0, "\n  engine log: Killed")
    assert events(pool) == [Said(1, "the end of its log:\n  engine log: Killed")]


def test_an_answer_of_a_replica_that_has_ended_is_nobodys(rays: Rays, pool: pools.Pool) -> None:
    started(rays, pool)
    pool.assign(1, "block", False)
    pool.release(1)
    rays.answer("run", 1, "receipt")
    rays.answer("capacity_left", 1, 0.0)
    assert events(pool) == []


def test_a_long_account_of_a_death_keeps_its_end_where_a_traceback_has_its_error(rays: Rays, pool: pools.Pool) -> None:
    account = f"an error raised in its creation task, {200 * 'File a, line 1 '}JobError: engine.kind toy: no such name"
    rays.answer("start_here", 1, RayError(f"The actor died because {account}"))
    [died] = events(pool)
    assert died.kind == "start"
    assert died.message.startswith("an error raised in its creation task, ")
    assert died.message.endswith("JobError: engine.kind toy: no such name")
    assert len(died.message) < 310


def test_a_cause_that_comes_twice_from_the_only_node_ends_the_job_and_names_it(rays: Rays, pool: pools.Pool) -> None:
    for replica in (1, 2):
        rays.answer("where", replica, (NODE, ADDRESS, "/a/log"))
    rays.answer("start_here", 1, RayTaskError("start_here", "traceback", EngineError("no GPU")))
    [died] = events(pool)
    assert (died.replica, died.kind, died.message) == (1, "start", "no GPU")
    rays.answer("start_here", 2, RayTaskError("start_here", "traceback", EngineError("no GPU")))
    with pytest.raises(EngineError, match=rf"no replica can start: on node {NODE[:12]} \({ADDRESS}\): no GPU"):
        events(pool)


def look(pool: pools.Pool) -> tuple[list[int], list[str]]:
    drained, _, lines = pool.adjust(2, 0, False, ())
    return drained, lines


def drained(rays: Rays, seconds: float | None) -> None:
    rays.nodes[NODE] = rays.nodes[NODE]._replace(is_drained=True, seconds_left=seconds)


def test_a_start_that_hangs_is_a_failed_start_and_another_is_asked_for(
    rays: Rays, pool: pools.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for replica in (1, 2):
        rays.answer("where", replica, (NODE, ADDRESS, "/a/log"))
    rays.answer("start_here", 2, ({"capacity": 1}, NODE, ""))
    events(pool)
    assert look(pool) == ([], [])
    late = time.monotonic() + 101
    monkeypatch.setattr(time, "monotonic", lambda: late)
    given_up = f"replica 1 on node {NODE[:12]} ({ADDRESS}): not ready after 100 s: it is given up"
    assert look(pool) == ([], [given_up])
    assert (rays.killed, pool.alive) == ([1], {2})
    assert [call.replica for call in rays.calls if call.method == "start_here"] == [1, 2, 3]


def test_places_that_are_asked_for_follow_the_nodes_that_are_left_out(
    rays: Rays, pool: pools.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node fails twice, is left out, and may be asked again after a minute."""
    avoided: list[set[str]] = []
    monkeypatch.setattr(pools.places, "reserve", lambda _, left_out: (avoided.append(set(left_out)), (None, {}))[1])
    started(rays, pool)
    for number in range(2):
        pool._health.began(9, "other", 0.0)
        pool._health.start_failed(9, "start", f"cause {number}", time.monotonic())
    [first] = [call for call in rays.calls if call.method == "capacity_left" and call.replica == 1]
    first.future().set_exception(ActorDiedError())
    events(pool)
    assert avoided == [{"other"}]
    late = time.monotonic() + 61
    monkeypatch.setattr(time, "monotonic", lambda: late)
    look(pool)
    assert avoided == [{"other"}, set()]
    assert rays.killed == [1, 3]


def test_before_a_node_goes_its_replica_takes_nothing_new_and_then_gives_up_what_it_runs(rays: Rays, pool: pools.Pool) -> None:
    started(rays, pool)
    pool.release(2)
    rays.answer("stop", 2, None)
    assert events(pool) == []
    pool.assign(1, "done", False)
    pool.assign(1, "open", False)
    where = f"replica 1 on node {NODE[:12]} ({ADDRESS})"
    drained(rays, 58.4)
    assert look(pool) == ([1], [f"{where}: its node goes in 58 s; it takes no new span"])
    assert look(pool) == ([], []), "it is told once"
    assert (pool.alive, pool.staying) == ({1}, set())
    drained(rays, members.CLOSE_SECONDS - 0.1)
    assert look(pool) == look(pool) == ([], [])
    assert [call.replica for call in rays.calls if call.method == "close"] == [1]
    rays.answer("run", 1, "receipt")
    rays.answer("close", 1, None)
    [finished, died] = events(pool)
    assert finished == Finished(1, "done", "receipt")
    assert (died.replica, died.kind, died.where) == (1, "node", where.partition(" on ")[2])
    assert (rays.killed, pool.alive) == ([2, 1], set())


def test_a_replica_that_starts_where_the_node_goes_is_given_up(rays: Rays, pool: pools.Pool) -> None:
    rays.answer("where", 1, (NODE, ADDRESS, "/a/log"))
    events(pool)
    drained(rays, None)
    assert look(pool) == ([], [f"replica 1 on node {NODE[:12]} ({ADDRESS}): its node is about to go; its start is given up"])
    assert rays.killed == [1]


def test_the_end_of_a_log_is_its_last_lines(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("".join(f"line {number} {'x' * 80}\n\n" for number in range(9_000)))
    lines = logs.tail(str(path)).split("\n  engine log: ")
    assert lines == ["", *(f"line {number} {'x' * 80}" for number in range(9_000 - logs.TAIL_LINES, 9_000))]
    assert logs.tail(str(tmp_path / "none")) == ""

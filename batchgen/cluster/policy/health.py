"""What goes wrong with nodes and replicas, and what follows from it: no Ray, no clocks; `now` is in seconds of any one clock.

A node is left out after FAILED_STARTS failed starts in a row, and asked again by one start after each of ASKED_AGAIN (the last
for ever). A start that ends with its node says nothing of it; one killed from outside, or one that takes too long, is the
node's, but no error of the job. The job fails only while no replica lives and when every fitting node failed FAILED_STARTS times
in a row, or, before any replica was ever ready, when one cause came from two nodes, twice from the only one, or UNPLACED times
from none.

Of the deaths with a span in flight those by engine count, and the loss of a node never does. A kill from outside weighs a third:
Ray cannot tell one from a crash of the actor's process, and a row that crashes it must not run for ever."""

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["engine", "node", "outside", "start"]
"""Why a replica is gone: its own process or engine; its node; somebody who killed it; a start that failed."""

FAILED_STARTS, UNPLACED = 2, 3
ASKED_AGAIN = (60.0, 300.0, 900.0)
WEIGHT: dict[Kind, int] = {"engine": 3, "outside": 1, "node": 0, "start": 0}
POISON = 9  # weight of the deaths with a span in flight after which it is run carefully (replica/careful.py)

_KINDS: tuple[tuple[str, Kind], ...] = (
    (r"creation task|runtime.?env\b.* failed|never ran|unschedulable", "start"),
    (
        r"node has died|node (it was running on )?is dead|node was (forcibly )?preempted|died by preemption|node preemption",
        "node",
    ),
    (r"NodeDiedError|missed too many heartbeats|raylet (process )?(has )?(died|crashed)|LocalRayletDied", "node"),
    (r"CUDA|EngineDead|EngineError|the engine", "engine"),
    (
        r"killed by `?ray\.kill|owner has died|owner.?s (node|worker)|all references|job (has )?finished|group was removed",
        "outside",
    ),
    (r"out.of.memory|\bOOM\b|low on memory|SIGKILL|SIGTERM|signal (9|15)\b|exit code (-9|-15|137|143)\b|ray stop", "outside"),
)
_VARIES = re.compile(r"0x[0-9a-f]+|\b[0-9a-f]{8,}\b|\d[\d.:,T/-]*\d|\d", re.IGNORECASE)
_ERROR = re.compile(r"\b\w*(?:Error|Exception)\b")


def kind_of(message: str) -> Kind:
    """What Ray's account of a death tells: the engine's, where it explains nothing. A worker that vanished (Ray guesses: the OOM
    killer, `ray stop`, SIGSEGV) counts as killed from outside."""
    return next((kind for pattern, kind in _KINDS if re.search(pattern, message, re.IGNORECASE)), "engine")


def short(account: str) -> str:
    """An account of a death, cut in its middle, since a traceback ends in its error."""
    return account if len(account) <= 300 else f"{account[:100]} ... {account[-200:]}"


def same_cause(message: str) -> str:
    """A cause without what differs from try to try (pids, addresses, times): its first line, and the last that names an error."""
    lines = [line.strip() for line in message.splitlines() if line.strip()] or [""]
    telling = [line for line in lines[1:] if _ERROR.search(line)][-1:]
    return "\n".join(_VARIES.sub("#", line) for line in lines[:1] + telling)


def is_poison(weight: int) -> bool:
    """Whether a span whose deaths (Dispatcher.deaths) have this weight must be run carefully."""
    return weight >= POISON


@dataclass
class _Node:
    """`failed`: starts in a row; `asked`: when the last one failed. `causes`: of all of them."""

    failed: int = 0
    asked: float = 0.0
    causes: set[str] = field(default_factory=set)


class Health:
    """The starts, deaths and living replicas of a job, by node. `start_seconds`: a start that takes longer has failed."""

    def __init__(self, start_seconds: float = 3600.0) -> None:
        self.start_seconds = start_seconds
        self.was_ready = False
        self._nodes: dict[str | None, _Node] = {}
        self._starts: dict[int, tuple[str | None, float]] = {}
        self._alive: dict[int, str] = {}
        self._causes: dict[str, list[str | None]] = {}
        """The nodes that each cause came from, in order, until a replica is ready."""
        self._last = ""

    def began(self, replica: int, node: str | None, now: float) -> None:
        """The replica has its place (on the node, where that is known) and starts. Only a node that becomes known is news."""
        if node is not None or replica not in self._starts:
            self._starts[replica] = (node, now)

    def ready(self, replica: int, node: str) -> None:
        """The replica's engine has started: its node is sound, and so is the job."""
        self._starts.pop(replica, None)
        self._alive[replica] = node
        self._nodes.pop(node, None)
        self.was_ready = True
        self._causes.clear()

    def died(self, replica: int, kind: Kind, cause: str, now: float) -> None:
        """The replica is gone: a failed start, where it was not ready."""
        if self._alive.pop(replica, None) is None and replica in self._starts:
            self.start_failed(replica, kind, cause, now)

    def start_failed(self, replica: int, kind: Kind, cause: str, now: float) -> None:
        node, _ = self._starts.pop(replica, (None, 0.0))
        if kind == "node":
            return
        known = self._nodes.setdefault(node, _Node())
        known.failed, known.asked = known.failed + 1, now
        self._last = cause
        if kind != "outside" and not self.was_ready:
            self._causes.setdefault(same_cause(cause), []).append(node)

    def ended(self, replica: int) -> None:
        """The pool itself has released or given up the replica."""
        self._starts.pop(replica, None)
        self._alive.pop(replica, None)

    def overdue(self, now: float) -> list[int]:
        """Replicas whose start hangs: the pool ends each, and says so by `start_failed` of kind "outside"."""
        return [replica for replica, (_, began) in self._starts.items() if now - began > self.start_seconds]

    def left_out(self, now: float) -> set[str]:
        """Nodes on which nothing may start now."""
        return {node for node in self._nodes if node is not None and not self.may_start(node, now)}

    def may_start(self, node: str, now: float) -> bool:
        """Whether a replica may be started there; on a node that failed, one at a time."""
        known = self._nodes.get(node)
        if known is None or known.failed < FAILED_STARTS:
            return True
        wait = ASKED_AGAIN[min(known.failed - FAILED_STARTS, len(ASKED_AGAIN) - 1)]
        return now - known.asked >= wait and all(of != node for of, _ in self._starts.values())

    def verdict(self, fitting: Collection[str]) -> str | None:
        """Why the job cannot go on. `fitting`: the nodes that hold a replica, those left out and those that may come included."""
        if self._alive:
            return None
        for nodes in self._causes.values():
            placed = {node for node in nodes if node is not None}
            only = len(set(fitting) | placed) <= 1
            if len(placed) > 1 or (only and len(nodes) - nodes.count(None) >= FAILED_STARTS) or nodes.count(None) >= UNPLACED:
                return f"no replica can start: {self._last}"
        failed = [self._nodes[node].failed if node in self._nodes else 0 for node in fitting]
        if failed and min(failed) >= FAILED_STARTS:
            where = "the only node" if len(failed) == 1 else f"each of the {len(failed)} nodes"
            return f"starts failed {FAILED_STARTS} times or more on {where} that would hold a replica: {self._last}"
        return None

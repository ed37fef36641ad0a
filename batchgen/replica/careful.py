"""Which prompts of a poisonous span run together: a span with which replicas keep dying is run in groups, one after the other.

Before a group enters the engine a file in the span's journal names it, its attempt and its place in it; after the group its
answers go into the journal. When the replica dies, only prompts of the attempt's last group can have been in flight: everything
else is in the journal or was never begun. The dispatcher says how each attempt ended: `Care.blamed` has those that may be the
prompts' fault, by their weight (policy/health.py); a death with its node is not among them, nor is an attempt that goes on
somewhere unseen. The next attempt runs the groups that were never blamed first, then the suspects in groups of a SPLIT-th.
A prompt that was a group by itself in attempts of GUILTY weight ends as `engine_crash`.

Why nobody else is convicted: a careful span is alone on its replica (policy/dispatch.py) and its groups follow each other, so
that a group of one is a prompt alone in its engine; where it was not, `Begun.alone` says so. Why it ends: each death that is
blamed splits a group or weighs on one prompt, of which there are finitely many; all others are in the journal by then. Why
nothing is lost: the journal. Halves of spans in the dispatcher would do the same, with parts of a part to keep; here a span stays
one span."""

import math
import uuid
from collections.abc import Iterable
from typing import NamedTuple

import orjson

from batchgen.output.store import Store

SPLIT = 8
GUILTY = 3  # weight of the deaths of a prompt alone: one by engine, three from outside
DETAIL = "the replica died of this prompt, again and again, and at last when it was alone in it"
SUFFIX = ".begun.json"


class Care(NamedTuple):
    """A careful run of a span: the name of the attempt, and earlier ones that died by the span's fault, with the weights."""

    attempt: str
    blamed: tuple[tuple[str, int], ...] = ()


class Begun(NamedTuple):
    """A group that an attempt has begun, as its `place`-th. `alone`: the replica had no other span then, not even one that the
    dispatcher has given up because its copy was first."""

    attempt: str
    place: int
    prompts: tuple[int, ...]
    alone: bool = True


def groups(missing: Iterable[int], begun: Iterable[Begun], care: Care) -> tuple[set[int], list[list[int]]]:
    """The guilty ones among the prompts without an answer, and the groups in which the others run."""
    left, weights, last = sorted(missing), dict(care.blamed), dict[str, Begun]()
    for group in begun:
        if group.attempt in weights and group.place >= last.get(group.attempt, group).place:
            last[group.attempt] = group
    weight = dict.fromkeys(left, 0)
    smallest = dict.fromkeys(left, math.inf)
    together: dict[int, tuple[int, ...]] = {}
    for group in last.values():
        unanswered = tuple(prompt for prompt in group.prompts if prompt in weight)
        for prompt in unanswered:
            if len(group.prompts) == 1 and group.alone:
                weight[prompt] += weights[group.attempt]
            if len(unanswered) <= smallest[prompt]:
                smallest[prompt], together[prompt] = len(unanswered), unanswered
    guilty = {prompt for prompt in left if weight[prompt] >= GUILTY}
    fresh = [prompt for prompt in left if prompt not in together]
    made = _split(fresh)
    for suspects in dict.fromkeys(together[prompt] for prompt in left if prompt in together):
        made += _split([prompt for prompt in suspects if together[prompt] == suspects and prompt not in guilty])
    return guilty, made


def _split(prompts: list[int]) -> list[list[int]]:
    size = math.ceil(len(prompts) / SPLIT) or 1
    return [prompts[low : low + size] for low in range(0, len(prompts), size)]


def begin(store: Store, folder: str, group: Begun) -> str:
    """Put the file that names a group. Returns its name. Raises StoreError."""
    name = f"{folder}/{uuid.uuid4().hex}{SUFFIX}"
    store.put_new(name, orjson.dumps(group._asdict()))
    return name


def load(store: Store, names: Iterable[str]) -> list[Begun]:
    """The groups that the span's files name; a damaged file names none. Raises StoreError."""
    found = []
    for name in names:
        if name.endswith(SUFFIX) and (data := store.get(name)) is not None:
            try:
                known = orjson.loads(data)
                found.append(
                    Begun(str(known["attempt"]), int(known["place"]), tuple(map(int, known["prompts"])), bool(known["alone"]))
                )
            except (ValueError, KeyError, TypeError):
                continue
    return found

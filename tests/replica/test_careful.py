"""Spans that replicas die of: in groups, until the guilty prompts are alone; everybody else keeps their answer."""

from __future__ import annotations

import asyncio
import io
import random
import uuid
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from batchgen.cluster.policy.health import WEIGHT
from batchgen.engines.base import Request
from batchgen.errors import EngineError
from batchgen.output.store import open_store
from batchgen.records import Answer, Receipt
from batchgen.replica import careful, journal
from batchgen.replica.careful import SPLIT, Begun, Care, groups
from tests.support.replicas import PATIENCE, Backwards, blocks, part_bytes, prepared, replica

ENGINE, OUTSIDE = WEIGHT["engine"], WEIGHT["outside"]


def history(rows: int, poison: set[int], dice: random.Random, kill: float = 0.0, weight: int = ENGINE) -> tuple[set[int], int]:
    """Attempts at a span until every prompt is answered: those convicted, and the attempts. `kill`: how likely an innocent group
    is killed by its node."""
    missing, begun, blamed, convicted, attempts = set(range(rows)), list[Begun](), dict[str, int](), set[int](), 0
    while missing:
        attempts += 1
        name = f"a{attempts}"
        guilty, made = groups(missing, begun, Care(name, tuple(blamed.items())))
        convicted |= guilty
        missing -= guilty
        assert sorted(prompt for group in made for prompt in group) == sorted(missing)
        for place, group in enumerate(made):
            begun.append(Begun(name, place, tuple(group)))
            dice.shuffle(begun)  # listings have no order of theirs
            if poison & set(group):
                blamed[name] = weight
                missing -= {prompt for prompt in group if prompt not in poison and dice.random() < 0.5}
                break
            if dice.random() < kill:
                break
            missing -= set(group)
    return convicted, attempts


@pytest.mark.parametrize("seed", range(40))
def test_only_the_poisonous_prompts_are_convicted_whatever_else_dies(seed: int) -> None:
    dice = random.Random(seed)
    rows = dice.choice((1, 2, 9, 64, 500))
    poison = set(dice.sample(range(rows), min(rows, dice.randint(0, 4))))
    weight = dice.choice((ENGINE, OUTSIDE))
    assert history(rows, poison, dice, kill=0.2, weight=weight)[0] == poison


def test_one_of_2048_costs_four_deaths() -> None:
    assert history(2048, {1234}, random.Random(0))[1] <= 5


def test_only_the_last_group_of_an_attempt_is_suspect_and_only_where_the_attempt_is_blamed() -> None:
    begun = [Begun("a", 0, (3,)), Begun("a", 1, (4, 5)), Begun("b", 0, (6,)), Begun("c", 0, (7,))]
    guilty, made = groups([3, 4, 5, 6, 7], begun, Care("d", (("a", ENGINE), ("c", OUTSIDE))))
    assert guilty == set()
    assert made == [[3], [6], [4], [5], [7]]
    assert groups([6], begun, Care("d", (("b", ENGINE),))) == ({6}, [])


def test_a_kill_from_outside_weighs_a_third() -> None:
    begun = [Begun(name, 0, (0,)) for name in "abc"]
    assert groups([0], begun, Care("d", (("a", OUTSIDE), ("b", OUTSIDE)))) == (set(), [[0]])
    assert groups([0], begun, Care("d", tuple((name, OUTSIDE) for name in "abc"))) == ({0}, [])


def test_groups_of_a_span_are_an_eighth_each() -> None:
    _, made = groups(range(80), [], Care("a"))
    assert [len(group) for group in made] == [10] * SPLIT


def test_what_is_begun_is_loaded_and_the_journal_does_not_mind_it() -> None:
    store = open_store(f"memory://{uuid.uuid4().hex}")
    group = Begun("a.1", 2, (3, 5))
    name = careful.begin(store, f"{journal.FOLDER}/span", group)
    store.put_new(f"{journal.FOLDER}/span/damaged{careful.SUFFIX}", b"{")
    found, names = journal.load(store, "span")
    assert found == {}
    assert name in names
    assert careful.load(store, names) == [group]


class Deadly(Backwards):
    """Dies, for good, once a prompt with this word is in it; it answers all others at once."""

    def __init__(self, word: str) -> None:
        super().__init__(4)
        self.word, self.asked = word, 0

    async def generate(self, request: Request) -> list[Answer]:
        self.asked += 1
        await asyncio.sleep(0)
        if self.word in (text := bytes(request.token_ids).decode()):
            raise EngineError("gone")
        return [Answer(text, 1, "stop")]


def test_a_replica_that_dies_of_a_row_loses_only_that_row(tmp_path: Path) -> None:
    made = prepared(tmp_path, [{"prompt": "a poison" if n == 17 else f"row {n}"} for n in range(40)], spans={"rows": 1000})
    [block] = blocks(made)
    blamed: list[tuple[str, int]] = []
    asked = 0

    async def attempt() -> Receipt | None:
        nonlocal asked
        engine = Deadly("poison")
        worker = replica(made, engine)
        await worker.start()
        care = Care(f"a{len(blamed)}", tuple(blamed))
        try:
            return await asyncio.wait_for(worker.run(block, True, care), PATIENCE)
        except EngineError:
            blamed.append((care.attempt, ENGINE))
            return None
        finally:
            asked += engine.asked
            assert worker._load == pytest.approx(0.0) or blamed

    receipt = None
    while receipt is None:
        receipt = asyncio.run(attempt())
    rows: list[dict[str, Any]] = pq.read_table(io.BytesIO(part_bytes(made, receipt))).to_pylist()
    assert [row["row"] for row in rows if row["error_code"]] == [17]
    assert rows[17]["error_code"] == "engine_crash"
    assert rows[17]["error_detail"].endswith(careful.DETAIL)
    assert len(blamed) == 2, "an eighth of the span, then the row alone"
    assert asked < 60
    assert journal.spans(replica(made).store) == set()

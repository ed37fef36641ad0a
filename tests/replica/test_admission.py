"""admission.py: what lengths are expected, the order that follows from them, and how rows wait for their turn."""

import asyncio
import random
from dataclasses import replace

import pytest

from batchgen.errors import RowError
from batchgen.job.sampling import Sampling
from batchgen.records import Prompt
from batchgen.replica.admission import IN_ENGINE, MAX_HELD, MIN_HELD, MOST_AHEAD, Priority, Queue, share


def prompt(source, max_tokens=100, turns=(), attributes=None, **sampling):
    fields = Sampling.model_construct(max_tokens=max_tokens, **sampling)
    return Prompt(source, "in.jsonl", source, 0, None, attributes, turns=list(turns), sampling=fields)


def of_key(value):
    return prompt(0, attributes={"verbosity": value})


def placed(order, prompts, capacity=16):
    return [place for place, _ in order.of_span(prompts, capacity)]


def order_of(places):
    return sorted(range(len(places)), key=lambda n: (places[n], n))


def test_nothing_is_known_before_a_row_is_finished():
    assert Priority().expect(prompt(0, max_tokens=70)) == 70


def test_a_key_is_learned_and_a_new_one_gets_the_mean_of_all():
    order = Priority()
    for _ in range(1_000):
        order.learn(of_key(0), 10)
        order.learn(of_key(4), 50)
    assert order.expect(of_key(0)) == pytest.approx(10, rel=0.05)
    assert order.expect(of_key(4)) == pytest.approx(50, rel=0.05)
    assert order.expect(of_key(2)) == pytest.approx(30)


def test_an_expectation_stays_between_min_tokens_and_max_tokens():
    order = Priority()
    order.learn(prompt(0), 50)
    assert order.expect(prompt(0, max_tokens=20)) == 20
    assert order.expect(prompt(0, min_tokens=80)) == 80


def test_ignore_eos_makes_the_length_exact_whatever_was_learned():
    order = Priority()
    order.learn(prompt(0), 5)
    assert order.expect(prompt(0, max_tokens=90, ignore_eos=True)) == 90


def test_the_turns_of_a_conversation_are_learned_and_expected_one_by_one():
    order = Priority()
    order.learn(prompt(0, turns=["b", "c"]), 90)
    assert [order.expect(prompt(0, turns=turns)) for turns in ([], ["b"])] == [30, 60]


def test_rows_of_one_length_keep_their_order():
    order = Priority()
    places = [*placed(order, [prompt(n) for n in range(40)]), *placed(order, [prompt(n) for n in range(40)])]
    assert order_of(places) == list(range(80))


def test_the_variants_of_a_row_share_a_place_and_rows_of_other_spans_do_not_come_between_them():
    order = Priority()
    span = [prompt(source, max_tokens=10 * (1 + variant)) for source in range(5) for variant in range(3)]
    places = placed(order, span)
    assert [places[3 * n : 3 * n + 3] for n in range(5)] == [[places[3 * n]] * 3 for n in range(5)]
    assert len(set(places)) == 5


def test_a_long_row_goes_ahead_and_a_conversation_counts_all_its_turns():
    order = Priority()
    places = placed(order, [prompt(0, 10), prompt(1, 10), prompt(2, 100), prompt(3, 10, turns=["b", "c"])])
    assert order_of(places) == [2, 3, 0, 1]


def test_no_row_waits_for_more_than_a_few_engines_full_of_later_ones():
    dice, order, capacity = random.Random(1), Priority(), 16
    places = []
    for _ in range(50):
        places += placed(order, [prompt(n, dice.choice([1, 10, 400])) for n in range(20)], capacity)
    entered = order_of(places)
    for turn, row in enumerate(entered):
        assert turn - row <= MOST_AHEAD * capacity


def test_an_error_row_takes_no_place_of_others():
    order = Priority()
    unread = Prompt(1, "in.jsonl", 1, 0, None, error=RowError("input", "no"))
    too_long = replace(prompt(2, max_tokens=None), error=RowError("too_long", "no"))
    first, _, _, last = placed(order, [prompt(0), unread, too_long, prompt(3)])
    assert last - first == 1


def depth(lengths, part=1e9, order=None):
    """The load up to which a replica wants more, after a span of such rows; none has few prompts."""
    order = order or Priority()
    order.of_span([prompt(n, length, ignore_eos=True) for n, length in enumerate(lengths)], 16)
    return next(load for load in range(1_000) if not order.wants_more(1_000, load, 16, part))


def test_a_replica_keeps_a_deep_queue_only_where_long_rows_can_be_told_from_short_ones():
    assert depth([]) == IN_ENGINE * 16, "of nothing nothing is known"
    assert depth([50] * 40) == depth([48, 52] * 20) == IN_ENGINE * 16
    assert depth([10, 400] * 20) == MAX_HELD * 16


def test_a_deep_queue_is_no_deeper_than_the_replicas_share_of_the_job():
    assert depth([10, 400] * 20, part=70) == 70
    assert depth([10, 400] * 20, part=3) == IN_ENGINE * 16


def test_a_replica_of_few_long_prompts_wants_as_many_as_its_engine_needs():
    order = Priority()
    assert order.wants_more(MIN_HELD * 16 - 1, 1e9, 16, 0.0)
    assert not order.wants_more(MIN_HELD * 16, 1e9, 16, 0.0)


def test_a_prompt_weighs_what_it_is_expected_to_take_by_the_mean_and_an_error_nothing():
    failed = replace(prompt(2), error=RowError("input", "no"))
    asked = [
        prompt(0, 30, ignore_eos=True),
        prompt(1, 10, ignore_eos=True, turns=["b", "c"]),
        failed,
        prompt(3, 120, ignore_eos=True),
    ]
    assert [length for _, length in Priority().of_span(asked, 16)] == pytest.approx([0.5, 0.5, 0.0, 2.0])


def test_answers_of_no_tokens_are_no_division_by_zero():
    order = Priority()
    for _ in range(100):
        order.learn(prompt(0), 0)
    [(_, length)] = order.of_span([prompt(0)], 16)
    assert length == 1


def test_what_was_expected_before_anything_was_learned_does_not_tell_rows_apart_for_long():
    order = Priority()
    order.of_span([prompt(n, 4_000) for n in range(100)], 16)
    for _ in range(1_000):
        order.learn(prompt(0), 50)
    for _ in range(40):
        order.of_span([prompt(n, 4_000) for n in range(100)], 16)
    assert not order.tells_apart


def test_learned_keys_tell_rows_apart():
    order = Priority()
    for key, tokens in ((0, 10), (4, 400)):
        for _ in range(100):
            order.learn(of_key(key), tokens)
    order.of_span([prompt(n, attributes={"verbosity": n % 2 * 4}) for n in range(40)], 16)
    assert order.tells_apart


def let_in(places, most, leaving):
    """The order in which prompts of these places get in, as `leaving` leave one after the other."""

    async def scenario():
        line, entered = Queue(), []

        async def one(number, place):
            await line.enter(place, most)
            entered.append(number)

        tasks = [asyncio.create_task(one(*pair)) for pair in enumerate(places)]
        await asyncio.sleep(0)
        for _ in range(leaving):
            line.leave()
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        return entered

    return asyncio.run(scenario())


def test_as_many_as_may_are_inside_and_the_lowest_place_is_next():
    assert let_in([5, 9, 7, 1, 7, 3], most=2, leaving=0) == [0, 1]
    assert let_in([5, 9, 7, 1, 7, 3], most=2, leaving=3) == [0, 1, 3, 5, 2]
    assert let_in([5, 9, 7, 1, 7, 3], most=2, leaving=6) == [0, 1, 3, 5, 2, 4]


@pytest.mark.parametrize("when", ["while it waits", "when its turn has come"])
def test_who_is_cancelled_takes_nobodys_turn(when):
    async def scenario():
        line = Queue()
        await line.enter(0, 1)
        waiting = [asyncio.create_task(line.enter(place, 1)) for place in (1, 2, 3)]
        await asyncio.sleep(0)
        if when == "when its turn has come":
            line.leave()
        waiting[0].cancel()
        if when == "while it waits":
            line.leave()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return [task.done() for task in waiting]

    assert asyncio.run(scenario()) == [True, True, False]


def test_a_replica_may_hold_all_that_is_left_where_it_is_alone_and_less_than_its_part_in_a_pool():
    assert share(1000, 1) == 1000
    for pool in (2, 8, 1000):
        assert 0.6 * 1000 / pool < share(1000, pool) < 1000 / pool

"""within: other people's programs are ended, whatever they do with what ends them."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator

import pytest
import regex

from batchgen.render.safe import time_limit
from batchgen.render.safe.time_limit import within


def test_what_is_done_in_time_returns_or_raises_its_own() -> None:
    assert within(5, lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 // 0)


def test_a_loop_is_ended() -> None:
    def loop() -> None:
        while True:
            time.sleep(0.001)

    with pytest.raises(TimeoutError):
        within(0.1, loop)


def test_a_loop_that_swallows_what_ends_it_is_ended_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_limit, "AGAIN_SECONDS", 0.3)
    swallowed = 0

    def loop() -> None:
        nonlocal swallowed
        while True:
            try:
                while True:
                    time.sleep(0.001)
            except BaseException:
                swallowed += 1
                if swallowed > 2:
                    raise

    with pytest.raises(TimeoutError):
        within(0.1, loop)
    assert swallowed == 3


@pytest.mark.parametrize("place", range(6))
def test_an_error_at_the_same_time_leaves_nothing_behind(place: int) -> None:
    """A search that ends by its own limit when that of the whole is over, too."""

    def search() -> None:
        regex.search(r"^(?P<run>(a|aa|a?)+)$", "a" * 60 + "!", timeout=0.4 + place / 20, concurrent=True)

    with pytest.raises(TimeoutError):
        within(0.3, search)
    for _ in range(100):
        time.sleep(0.005)  # a late one would come here
    assert not time_limit._WATCHER._calls


def test_threads_are_ended_each_by_itself() -> None:
    found = list[str]()

    def numbers() -> Iterator[int]:
        while True:
            yield 1

    def work(seconds: float) -> None:
        try:
            within(seconds, lambda: sum(numbers()) if seconds < 1 else time.sleep(1.5))
        except TimeoutError:
            found.append("late")
        else:
            found.append("done")

    threads = [threading.Thread(target=work, args=(seconds,)) for seconds in (0.1, 0.2, 5, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(found) == ["done", "done", "late", "late"]
    gc.collect()

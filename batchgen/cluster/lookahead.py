"""A bounded look-ahead over an iterator of blocks, in a thread. No Ray."""

import itertools
import threading
from collections import deque
from collections.abc import Hashable, Iterator

END = object()
Block = tuple[Hashable, int]  # A block's reference and its size in bytes


class Lookahead:
    """Takes blocks from an iterator before they are asked for: `blocks` of them at least, and more while they hold no more than
    `size` bytes together."""

    def __init__(self, source: Iterator[Block], blocks: int, size: int) -> None:
        self._blocks, self._size = blocks, size
        self._taken: deque[tuple[Hashable | BaseException, int]] = deque()
        self._held, self._stopped = 0, False
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._iterate, args=(source,), name="feed", daemon=True)
        self._thread.start()

    def next(self) -> Hashable | None:
        """A reference, END after the last one, None when none is ready yet. Raises what the iterator raised."""
        with self._change:
            if not self._taken:
                return None
            item, size = self._taken.popleft()
            self._held -= size
            self._change.notify_all()
        if isinstance(item, BaseException):
            raise item
        return item

    def stop(self) -> None:
        """Take no more blocks. Returns when the iterator is let go."""
        with self._change:
            self._stopped = True
            self._taken.clear()
            self._change.notify_all()
        self._thread.join()

    def _iterate(self, source: Iterator[Block]) -> None:
        try:
            for item, size in itertools.chain(source, [(END, 0)]):
                self._put(item, size)
                if self._stopped:
                    return
        except BaseException as error:  # `next` raises it in the driver's thread
            self._put(error, 0)

    def _put(self, item: Hashable | BaseException, size: int) -> None:
        with self._change:
            self._change.wait_for(lambda: self._stopped or len(self._taken) < self._blocks or self._held + size <= self._size)
            if not self._stopped:
                self._taken.append((item, size))
                self._held += size

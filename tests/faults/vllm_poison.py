"""A logits processor for vLLM that makes rows deadly to its engine: those with DEADLY or FROZEN as their `max_tokens`."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from vllm.v1.sample.logits_processor import LogitsProcessor

DEADLY, FROZEN = 13, 14


class Poison(LogitsProcessor):  # type: ignore[misc]
    def __init__(self, *_: Any) -> None: ...

    def apply(self, logits: Any) -> Any:
        return logits

    def is_argmax_invariant(self) -> bool:
        return True

    def update_state(self, batch_update: Any) -> None:
        for _, sampling, *_ in batch_update.added if batch_update else ():
            if sampling.max_tokens == DEADLY:
                os.kill(os.getpid(), signal.SIGKILL)
            if sampling.max_tokens == FROZEN:
                time.sleep(3600)

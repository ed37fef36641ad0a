"""What an engine is: prompts as token ids in, `n` answers out.

An engine refuses one prompt with BadRow(engine_rejected) and goes on; EngineError means that it is dead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from batchgen.job.sampling import Sampling
from batchgen.records import Answer


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt for an engine. `name` is unique among running requests; of the requests that wait, one with a lower `priority`
    runs first; `images` are those of the conversation, as data URLs, in order."""

    name: str
    token_ids: list[int]
    sampling: Sampling
    priority: int = 0
    images: Sequence[str] = ()


class Engine(Protocol):
    capacity: int
    """Sequences that run at once; a replica keeps more than these waiting."""
    workers: int
    """Processes or GPUs that hold the model together."""

    async def start(self) -> None:
        """Load the model. Raises EngineError with the engine's own words."""
        ...

    async def generate(self, request: Request) -> list[Answer]:
        """The `sampling.n` answers to one prompt, complete. `best_of` is the task's to serve: an engine ignores it.

        Raises BadRow when the engine refuses this prompt, EngineError when it died.
        """
        ...

    async def probe(self) -> None:
        """Returns while the engine works; raises EngineError when it died, and never returns when it hangs."""
        ...

    async def stop(self) -> None: ...

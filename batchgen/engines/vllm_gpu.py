"""Engines that share a GPU, each with a fraction of its memory, start one after the other: vLLM measures what the whole GPU has
free while it starts, and takes another's start for its own ("Initial free memory ...", gpu_worker.py)."""

import asyncio
import contextlib
import fcntl
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path


@contextlib.asynccontextmanager
async def turn(shares: bool) -> AsyncIterator[None]:
    """This process's turn to start an engine on its GPU, by a lock on a file of the node; at once where it does not share it."""
    if not shares:
        yield
        return
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "").replace("/", "-") or "all"
    with open(Path(tempfile.gettempdir(), f"batchgen-{os.getuid()}-gpu-{gpu}.lock"), "a") as file:
        await asyncio.to_thread(fcntl.flock, file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # closing it would not do where a child of this process has it open

"""vllm_gpu.py: starts on a GPU that is shared, one after the other."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest

from batchgen.engines.vllm_gpu import turn


def order(monkeypatch: pytest.MonkeyPatch, folder: Path, gpus: tuple[str, str], shares: bool, patience: float) -> list[str]:
    """What two starts do, of which the first waits for the second to end if it can."""
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(folder))
    seen: list[str] = []

    async def both() -> None:
        first_in, second_in = asyncio.Event(), asyncio.Event()

        async def first() -> None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus[0])
            async with turn(shares):
                first_in.set()
                try:
                    await asyncio.wait_for(second_in.wait(), patience)
                except TimeoutError:
                    seen.append("alone")
            seen.append("first")

        async def second() -> None:
            await first_in.wait()
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus[1])
            async with turn(shares):
                second_in.set()
                seen.append("second")

        await asyncio.gather(first(), second())

    asyncio.run(both())
    return seen


def test_the_second_start_on_a_gpu_waits_for_the_end_of_the_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert order(monkeypatch, tmp_path, ("0", "0"), True, 0.5) == ["alone", "first", "second"]


@pytest.mark.parametrize(("gpus", "shares"), [(("0", "1"), True), (("0", "0"), False)])
def test_others_do_not_wait(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gpus: tuple[str, str], shares: bool) -> None:
    assert order(monkeypatch, tmp_path, gpus, shares, 60)[0] == "second"

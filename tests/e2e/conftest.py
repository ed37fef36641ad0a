"""Fixtures of the tests with whole engines."""

from __future__ import annotations

import contextlib

import pytest

from tests.support import shared_engine

_held = contextlib.ExitStack()


@pytest.fixture(scope="session")
def vllm_engine() -> shared_engine.Shared:
    """Stopped after the last of the tests that follow one another and use it: it keeps this process off a core."""
    return _held.enter_context(shared_engine.vllm_engine())


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    if "vllm_engine" not in getattr(nextitem, "fixturenames", ()):
        _held.close()

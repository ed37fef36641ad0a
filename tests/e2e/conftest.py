"""Fixtures of the tests with whole engines."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import shared_engine


@pytest.fixture(scope="session")
def vllm_engine() -> Iterator[shared_engine.Shared]:
    with shared_engine.vllm_engine() as shared:
        yield shared

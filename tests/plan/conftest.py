"""Fixtures of the tests of queries."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.queries import ROWS, lines


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    (tmp_path / "rows.jsonl").write_text(lines(*ROWS))
    return tmp_path / "rows.jsonl"

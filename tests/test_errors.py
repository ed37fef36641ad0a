"""errors.py: what another library says, as our messages repeat it."""

from __future__ import annotations

import pytest

from batchgen.errors import printable, safe_message


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("two\n   lines", "two lines"),
        ("PUT http://user:canary@host:1/b/a in 2 s, again", "PUT http://host:1/b/a in 2 s, again"),
        ("GET https://a.blob/x?sv=1&sig=canary, then", "GET https://a.blob/x?..., then"),
        ("s3://key:canary@bucket/p", "s3://bucket/p"),
        ("mail me@host", "mail me@host"),
        ("503 Debug source: http://canary", "503"),
    ],
)
def test_words_are_one_line_without_credentials(said: str, kept: str) -> None:
    assert safe_message(Exception(said)) == kept


def test_words_are_cut() -> None:
    assert safe_message(Exception("x" * 1000), 7) == "x" * 7


def test_a_terminal_is_told_nothing_but_text() -> None:
    assert printable("a\x1b[31m\r\x07\x9bb\n\tünï😀") == "a\\x1b[31m\\x0d\\x07\\x9bb\n\tünï😀"

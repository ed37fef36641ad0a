"""Text -> token ids, with special tokens that a row's text spells kept as text.

A text such as `</s>` in a prompt must not end the sequence. What a row spells so is taken out before the template is
applied (`hide`), and tokenized apart from the rest with special tokens switched off (`encode`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from tokenizers import Tokenizer

from batchgen.errors import ModelError
from batchgen.render.messages import texts, with_texts
from batchgen.render.model_files import ModelFiles


@dataclass(frozen=True)
class Hidden:
    """Texts that left a conversation; `mark` stands on both sides of each one's number."""

    mark: str = ""
    texts: list[str] = field(default_factory=list)


class TokenEncoder:
    """The model's tokenizer. Raises ModelError for one that cannot be read."""

    def __init__(self, model: ModelFiles) -> None:
        self._plain, self._literal = _tokenizers(model)
        self._special = _special_pattern(self._plain)

    def hide(self, messages: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], Hidden]:
        """The messages without special tokens in their texts, and what was hidden.

        The mark is a private-use character that is in none of the texts.
        """
        special = self._special
        everything = [text for message in messages for text in texts(message["content"])]
        if special is None or not any(map(special.search, everything)):
            return messages, Hidden()
        mark = next(chr(code) for code in range(0xF0000, 0xFFFFE) if not any(chr(code) in text for text in everything))
        hidden = Hidden(mark)

        def number(match: re.Match[str]) -> str:
            hidden.texts.append(match.group())
            return f"{mark}{len(hidden.texts) - 1}{mark}"

        return [{**m, "content": with_texts(m["content"], lambda text: special.sub(number, text))} for m in messages], hidden

    def encode(self, text: str, hidden: Hidden, add_special_tokens: bool) -> tuple[str, list[int]]:
        """The text with the hidden texts in their places again, and its token ids."""
        pieces = text.split(hidden.mark) if hidden.texts else [text]
        ids: list[int] = []
        for index, piece in enumerate(pieces):
            if index % 2:
                pieces[index] = hidden.texts[int(piece)]
                ids += self._literal.encode(pieces[index], add_special_tokens=False).ids
            elif piece or index == 0:
                ids += self._plain.encode(piece, add_special_tokens=add_special_tokens and index == 0).ids
        return "".join(pieces), ids


class _Bytes:
    """The tokenizer of a job without a model: one token per UTF-8 byte."""

    def encode(self, text: str, add_special_tokens: bool = False) -> _Bytes:
        self.ids = list(text.encode())
        return self


def _tokenizers(model: ModelFiles) -> tuple[Any, Any]:
    """The model's tokenizer, and the same with special tokens read as text."""
    if model.tokenizer is None:
        return _Bytes(), _Bytes()
    try:
        plain, literal = Tokenizer.from_str(model.tokenizer), Tokenizer.from_str(model.tokenizer)
    except Exception as error:  # tokenizers raises bare Exception
        raise ModelError(f"{model.label}: tokenizer.json: {error}") from None
    for tokenizer in (plain, literal):
        tokenizer.no_truncation()
        tokenizer.no_padding()
    literal.encode_special_tokens = True
    return plain, literal


def _special_pattern(tokenizer: Any) -> re.Pattern[str] | None:
    if isinstance(tokenizer, _Bytes):
        return None
    special = [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]
    return re.compile("|".join(re.escape(t) for t in sorted(special, key=len, reverse=True))) if special else None

"""Text -> token ids, with special tokens that a row's text spells kept as text.

A text such as `</s>` in a prompt must not end the sequence. `hide` takes such texts out before the template is applied, and
`encode` tokenizes them apart from the rest with special tokens switched off.
"""

import re
from dataclasses import dataclass, field

from tokenizers import Tokenizer

from batchgen.errors import ModelError
from batchgen.records import Message
from batchgen.render.messages import texts, with_texts
from batchgen.render.model_files import ModelFiles


@dataclass(frozen=True)
class Hidden:
    """Texts that left a conversation; `mark` stands on both sides of each one's number."""

    mark: str = ""
    texts: list[str] = field(default_factory=list)


class TokenEncoder:
    """The model's tokenizer; a token per UTF-8 byte for a job without one. Raises ModelError for one that cannot be read."""

    def __init__(self, model: ModelFiles) -> None:
        self._special: re.Pattern[str] | None = None
        self._plain = self._literal = None
        if model.tokenizer is not None:
            self._plain, self._literal = _tokenizer(model.tokenizer, model.label), _tokenizer(model.tokenizer, model.label)
            self._literal.encode_special_tokens = True
            self._special = _special_pattern(self._plain)

    def hide(self, messages: list[Message]) -> tuple[list[Message], Hidden]:
        """The messages without special tokens in their texts, and the texts that were hidden.

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
                ids += _encode(self._literal, pieces[index], False)
            elif piece or index == 0:
                ids += _encode(self._plain, piece, add_special_tokens and index == 0)
        return "".join(pieces), ids


def _encode(tokenizer: Tokenizer | None, text: str, add_special_tokens: bool) -> list[int]:
    if tokenizer is None:
        return list(text.encode())
    ids: list[int] = tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
    return ids


def _tokenizer(text: str, label: str) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # tokenizers raises bare Exception
        raise ModelError(f"{label}: tokenizer.json: {error}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _special_pattern(tokenizer: Tokenizer) -> re.Pattern[str] | None:
    special = [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]
    return re.compile("|".join(re.escape(t) for t in sorted(special, key=len, reverse=True))) if special else None

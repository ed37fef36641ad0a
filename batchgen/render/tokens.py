"""Text -> token ids, with special tokens that a row's text spells kept as text. A text such as `</s>` in a prompt must not end
the sequence: `hide` takes such texts out before the template is applied, and `encode` tokenizes them apart from the rest with
special tokens switched off."""

import re
from itertools import groupby

from tokenizers import AddedToken, Tokenizer

from batchgen.errors import BadRow, ModelError, safe_message
from batchgen.job.fields import Fields
from batchgen.records import Message
from batchgen.render.messages import changed, texts, texts_in, with_texts
from batchgen.render.model.special import FLAGS, Flags
from batchgen.render.model_files import ModelFiles

Tools = list[Fields] | None


class TokenEncoder:
    """The model's tokenizer; a token per UTF-8 byte for a job without one. Raises ModelError for one that cannot be read."""

    def __init__(self, model: ModelFiles) -> None:
        self._plain = self._literal = None
        self._special: list[str] = []
        self.longest = 1  # characters of a token
        if model.tokenizer is not None:
            try:
                self._plain, self._literal = Tokenizer.from_str(model.tokenizer), Tokenizer.from_str(model.tokenizer)
            except Exception as error:  # tokenizers raises bare Exception
                raise ModelError(f"{model.label}: tokenizer.json: {error}") from None
            for tokenizer in (self._plain, self._literal):
                tokenizer.no_truncation()
                tokenizer.no_padding()
                _add(tokenizer, model.added)
            self._literal.encode_special_tokens = True
            self._special = [token.content for token in self._plain.get_added_tokens_decoder().values() if token.special]
            self.longest = max(map(len, self._plain.get_vocab()), default=1)
        self._pattern = re.compile("|".join(map(re.escape, sorted(self._special, key=len, reverse=True))))

    def reader(self, most: int | None, cuts_left: bool) -> Tokenizer | None:
        """A tokenizer of whole texts and pairs, which adds its special tokens, takes those that a text spells for text, and cuts
        to `most` tokens, the longer text of a pair first. None for a model without one."""
        if self._literal is None:
            return None
        made = Tokenizer.from_str(self._literal.to_str())
        made.encode_special_tokens = True
        if most is not None:
            made.enable_truncation(most, direction="left" if cuts_left else "right")
        return made

    def hide(self, messages: list[Message], tools: Tools = None) -> tuple[list[Message], Tools, str]:
        """The messages and tools with the number of each special token in place of it, and the mark that stands on both sides of
        a number: a private-use character that is in none of the texts, "" where they have no special token."""
        everything = [text for message in messages for text in texts(message)] + texts_in(tools)
        if not self._special or not any(map(self._pattern.search, everything)):
            return messages, tools, ""
        mark = next(chr(code) for code in range(0xF0000, 0xFFFFE) if not any(chr(code) in text for text in everything))

        def numbered(text: str) -> str:
            return self._pattern.sub(lambda match: f"{mark}{self._special.index(match.group())}{mark}", text)

        return [with_texts(message, numbered) for message in messages], changed(tools, numbered), mark

    def encode(self, text: str, mark: str, add_special_tokens: bool) -> tuple[str, list[int]]:
        """The text with the hidden special tokens in their places again, and its token ids. Raises BadRow (render)."""
        pieces = text.split(mark) if mark else [text]
        ids: list[int] = []
        for index, piece in enumerate(pieces):
            if index % 2:
                try:
                    pieces[index] = self._special[int(piece)]
                except (ValueError, IndexError):
                    raise BadRow("render", "the chat template cuts through a special token that the text spells") from None
                ids += _encode(self._literal, pieces[index], False)
            elif piece or index == 0:
                ids += _encode(self._plain, piece, add_special_tokens and index == 0)
        return "".join(pieces), ids

    def text(self, ids: list[int]) -> str:
        """The text of token ids, special tokens in it."""
        if self._plain is None:
            return bytes(ids).decode(errors="replace")
        return str(self._plain.decode(ids, skip_special_tokens=False))

    def count(self, text: str) -> int:
        """The tokens of a text by itself."""
        return len(_encode(self._plain, text, False))


def _add(tokenizer: Tokenizer, added: dict[str, Flags]) -> None:
    """Tell the tokenizer of the tokens that it lacks, as Transformers does on loading; special is what either calls so."""
    known = {token.content: token for token in tokenizer.get_added_tokens_decoder().values()}
    fresh = []
    for text, flags in added.items():
        before = {flag: getattr(known[text], flag) for flag in FLAGS} if text in known else {}
        special = flags.get("special", False) or before.get("special", False)
        token = AddedToken(text, **{**before, **flags, "special": special})
        if text not in known or repr(token) != repr(known[text]):
            fresh.append(token)
    for special, tokens in groupby(fresh, key=lambda token: bool(token.special)):
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)(list(tokens))


def _encode(tokenizer: Tokenizer | None, text: str, add_special_tokens: bool) -> list[int]:
    if tokenizer is None:
        return list(text.encode())
    try:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
    except BaseException as error:  # a panic of the library is no Exception
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise BadRow("render", f"the tokenizer failed: {safe_message(error)}") from None
        raise
    return ids

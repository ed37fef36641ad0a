"""The special tokens of a model's tokenizer: what its chat template may name, and which texts are tokens. The rules are those of
Transformers 5 (PreTrainedTokenizerBase._from_pretrained)."""

from pathlib import Path
from typing import Any

from batchgen.render.model.files import read_json, wrong

NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
TAKEN = {"messages", "tools", "documents", "add_generation_prompt"}  # variables of every chat template
Flags = dict[str, bool]


def special_tokens(folder: Path, settings: dict[str, Any]) -> tuple[dict[str, str], dict[str, Flags]]:
    """The template's variables (bos_token, ..., image_token), and the texts that tokenizer.json may not know as tokens, or not
    as special ones, with their flags. `settings` is tokenizer_config.json. Raises ModelError."""
    path = folder / "tokenizer_config.json"
    files = [(path, settings)]
    if settings.get("added_tokens_decoder") is not None:
        added = _decoder(path, settings["added_tokens_decoder"])
    else:  # files of older releases, which win over tokenizer_config.json
        files.append((folder / "special_tokens_map.json", read_json(folder / "special_tokens_map.json")))
        added = _added(folder / "added_tokens.json")
    variables: dict[str, str] = {}
    named: dict[str, str] = {}
    others: list[str] = []
    for path, given in files:
        for name, value in given.items():
            if value is None:
                variables.pop(name, None)
            elif name in NAMED or (name.endswith("_token") and _is_token(value, settings is not given)):
                variables[name] = _text(path, name, value)
        more = given.get("extra_special_tokens") or (not (others or named) and given.get("additional_special_tokens")) or []
        if isinstance(more, dict):
            named |= {name: _text(path, name, value) for name, value in more.items()}
        elif isinstance(more, list):
            others += [_text(path, "extra_special_tokens", value) for value in more]
        if not isinstance(more, dict | list) or TAKEN & named.keys():
            raise wrong(path, "extra_special_tokens", more, "a list of tokens, or tokens by names that a template has free")
    variables |= named
    for text in filter(None, [*variables.values(), *others]):
        added[text] = {**added.get(text, {}), "special": True}
    return variables, added


def _is_token(value: object, written: bool) -> bool:
    """Whether a value under a name of the model's own is a token: an object is one in special_tokens_map.json, or says so."""
    return isinstance(value, str) or (isinstance(value, dict) and (written or "__type" in value))


def _text(path: Path, name: str, value: object) -> str:
    """A token is its text, or an object with its text and flags."""
    text = value.get("content") if isinstance(value, dict) else value
    if not isinstance(text, str):
        raise wrong(path, name, value, "a token")
    return text


def _decoder(path: Path, decoder: object) -> dict[str, Flags]:
    """Tokens by number, in the order of the numbers: those that tokenizer.json lacks get the next ones."""
    name, found = "added_tokens_decoder", {}
    if not isinstance(decoder, dict) or not all(map(str.isdecimal, decoder)):
        raise wrong(path, name, decoder, "an object of tokens by number")
    for _, token in sorted(decoder.items(), key=lambda item: int(item[0])):
        if not isinstance(token, dict):
            raise wrong(path, name, token, "a token with its flags")
        found[_text(path, name, token)] = {flag: token[flag] is True for flag in FLAGS if flag in token}
    found.pop("", None)
    return found


def _added(path: Path) -> dict[str, Flags]:
    """added_tokens.json: text -> number. Special are those that another file names so."""
    numbers = read_json(path)
    for text, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int):
            raise wrong(path, text, number, "the number of a token")
    return {text: {} for text in sorted(numbers, key=numbers.__getitem__) if text}

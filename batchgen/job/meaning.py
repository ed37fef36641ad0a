"""The meaning of a job as a flat mapping, and how two meanings are compared.

A meaning holds every field that decides what a row means, under its dotted key. Releases add and drop fields, so that a meaning
read from an output is compared field by field: a key that one side lacks stands for that field's default. A field that is
dropped from the job leaves its last default in RETIRED."""

import hashlib
from collections.abc import Mapping

import orjson
from pydantic import BaseModel

from batchgen.job.fields import models_in

Meaning = Mapping[str, object]
RETIRED: dict[str, object] = {}  # dotted keys that released meanings have and today's have not, with the default that they had


def flatten(value: object, prefix: str = "") -> dict[str, object]:
    """Nested mappings as one mapping of dotted keys."""
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, object] = {}
    for key, entry in value.items():
        flat |= flatten(entry, f"{prefix}.{key}" if prefix else str(key))
    return flat


def fingerprint(meaning: Meaning, defaults: Meaning | None = None) -> str:
    """sha256, in hex, of the canonical JSON of the fields that differ from `defaults`."""
    telling = {key: value for key, value in meaning.items() if defaults is None or value != defaults.get(key)}
    return hashlib.sha256(orjson.dumps(telling, option=orjson.OPT_SORT_KEYS)).hexdigest()


def differences(before: Meaning, now: Meaning, defaults: Meaning) -> dict[str, tuple[object, object]]:
    """The fields that differ, each with its value before and now. A missing field has its default, or None."""
    values = {name: tuple(side.get(name, defaults.get(name)) for side in (before, now)) for name in [*before, *now]}
    return {name: (there, here) for name, (there, here) in values.items() if there != here}


def defaults_of(model: type[BaseModel], prefix: str = "") -> dict[str, object]:
    """The default of every optional field of a model and of the models inside it, by dotted key."""
    found: dict[str, object] = {}
    for name, field in model.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        if not field.is_required():
            default = field.get_default(call_default_factory=True)
            plain = default.model_dump(mode="json", by_alias=True) if isinstance(default, BaseModel) else default
            found |= flatten(plain, key)
        for inner in models_in(field.annotation):
            found = defaults_of(inner, f"{key}.") | found
    return found

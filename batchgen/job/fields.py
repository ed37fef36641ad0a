"""The job file as text: YAML without surprises, overrides, mistakes in words; and what its fields have in common."""

import functools
import os
import re
from collections.abc import Hashable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, get_args

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from batchgen.errors import JobError, did_you_mean, safe_message

MOST = 2**31 - 1
Fields = dict[str, Any]  # fields of a job as YAML, JSON or a row gives them, not validated yet
Fraction = Annotated[float, Field(ge=0, le=1)]
SHORT = {"input": "path", "model": "source", "output": "path"}
"""Fields of a job that may be short: a text is that field of theirs."""
_UNION_TAGS = {"str", "bool", "int", "float", "Column", "Schema", "Retry", "Marks"}


def at_home(path: str) -> str:
    """The path with `~`, `$HOME` or `${HOME}` at its beginning expanded; a URL as it is."""
    if "://" in path:
        return path
    return os.path.expanduser(re.sub(r"^(\$HOME|\$\{HOME\})(?=/|$)", "~", path))


def all_at_home(value: Any) -> Any:
    """The texts in some options, as `at_home` has them: those that begin so are paths."""
    if isinstance(value, dict):
        return {key: all_at_home(one) for key, one in value.items()}
    if isinstance(value, list):
        return [all_at_home(one) for one in value]
    return at_home(value) if isinstance(value, str) else value


Place = Annotated[str, AfterValidator(at_home)]
Options = Annotated[Fields, AfterValidator(all_at_home)]


def in_full(name: str, value: object) -> Any:
    """The value of a field of a job in its long form."""
    return {SHORT[name]: value} if name in SHORT and isinstance(value, str | list) else value


def short(name: str, kind: object) -> BeforeValidator:
    """Takes the short form of a field of a job, `kind`, too."""
    return BeforeValidator(functools.partial(in_full, name), json_schema_input_type=kind)


class Spec(BaseModel):
    """Fields of a job: frozen, unknown keys are errors, NaN and infinity are no values."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False)


class Column(Spec):
    """The value is taken from this input column, row by row."""

    column: str = Field(description="Name of an input column.")


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses aliases (their expansion is unbounded) and duplicate keys (one is lost)."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed in a job")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        seen: set[object] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key must be a plain value", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"duplicate key {key.value!r}", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: str | Path) -> Fields:
    """The mapping in a YAML file. Raises JobError."""
    try:
        fields = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError) as error:
        cause = error.strerror if isinstance(error, OSError) else safe_message(error)
        raise JobError(f"job file {path}: {cause}") from None
    if not isinstance(fields, dict):
        raise JobError(f"job file {path}: expected a mapping of fields, got {type(fields).__name__}")
    return fields


def override(fields: Fields, text: str) -> None:
    """Apply one `key.path=value` to the fields. Raises JobError."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise JobError(f"--set {text}: expected key.path=value")
    parsed: object = value
    try:
        # A value such as *.jsonl is a glob to a person and an alias to YAML.
        parsed = value if value.startswith("*") else yaml.load(value, _Loader)
    except yaml.YAMLError as error:
        if not re.search(r"\{[{%]", value):  # of a template, which is a text
            raise JobError(f"--set {text}: {safe_message(error)}") from None
    *parents, last = key.split(".")
    place: Any = fields
    for parent in parents:
        if place.get(parent) is None:
            place[parent] = {}
        place[parent] = in_full(parent, place[parent]) if place is fields else place[parent]
        place = place[parent]
        if not isinstance(place, dict):
            raise JobError(f"--set {text}: {parent} is not a mapping")
    place[last] = parsed


def unknown_key(key: str, known: Iterable[str]) -> str:
    return f"unknown field {key!r}{did_you_mean(key, known, repr)}"


def explain(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """One line per mistake; a branch of a union that wants another type is no mistake where one has more to say."""
    found = [([part for part in item["loc"] if not _is_union_tag(part)], item) for item in error.errors(include_url=False)]
    sure = [path for path, item in found if not item["type"].endswith("_type")]
    lines = []
    for path, item in found:
        if item["type"].endswith("_type") and any(other[: len(path)] == path for other in sure):
            continue
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            *parents, key = item["loc"]
            message = unknown_key(str(key), _fields_at(model, parents))
        if item["type"] == "string_type" and isinstance(item["input"], bool):
            message = "a text, not true or false: YAML's yes, no, on and off are these unless they are quoted"
        where = ".".join(map(str, path))
        lines.append(f"{where}: {message}" if where else message)
    return list(dict.fromkeys(lines))


def models_in(annotation: object) -> Iterator[type[BaseModel]]:
    """The models that a field's type is made of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from models_in(argument)


def _is_union_tag(part: object) -> bool:
    return isinstance(part, str) and (part in _UNION_TAGS or "[" in part)


def _fields_at(model: type[BaseModel], parents: Iterable[object]) -> list[str]:
    here: type[BaseModel] | None = model
    for part in parents:
        if here is not None and not isinstance(part, int) and not _is_union_tag(part):
            found = next((field for name, field in here.model_fields.items() if part in (name, field.alias)), None)
            here = next(models_in(found.annotation), None) if found else None
    return [field.alias or name for name, field in here.model_fields.items()] if here else []

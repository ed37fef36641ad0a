"""The `attributes` field of a job: a schema by name or in full, values, a sweep or draws, columns; and label jobs.

The model of a label job predicts attributes: it reads a conversation that ends with an answer and writes the values, greedily, in
a form that a regular expression holds it to. Form and end marks: the model card of KARAKURI LM 7B APM v0.1."""

import functools
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from batchgen.job.fields import Fields, Place, Spec, in_full
from batchgen.job.schemas import BUILT_IN, Schema, sweep

WEIGHT = "weight"  # key of a combination of a sample: how likely it is beside the others


class Draw(Spec):
    k: int = Field(ge=1, le=1024, description="Draws per row. Each makes one variant; the same combination may be drawn twice.")
    from_: Place | Annotated[list[Fields], Field(min_length=1)] = Field(
        alias="from", description="Combinations: list of mappings, or a local JSONL or Parquet file with a column per attribute."
    )
    seed: int = Field(0, description="Seed of the draws. A row's draws depend only on this seed and the row's name.")


class Attributes(Spec):
    schema_: str | Schema = Field(alias="schema", description=f"A built-in name ({', '.join(BUILT_IN)}) or a schema of your own.")
    values: Fields = Field({}, description="Values for every row. A row's own column wins.")
    sweep: dict[str, list[Any]] | list[Fields] = Field(
        {}, description="Variants of each row: every combination of these values (a mapping of lists), or each mapping of a list."
    )
    sample: Draw | None = Field(None, description="Variants of each row: k random draws from many combinations. Excludes sweep.")
    predict: str | None = Field(
        None, description="Labels to predict (schema karakuri-apm): helpsteer or oasst. Sets prompt, constraint, stop and parse."
    )
    columns: dict[str, str] | bool = Field(
        True, description="Columns with a row's own values: named like the attributes (true), {attribute: column}, none (false)."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        schema = self.schema
        if schema.labels or self.predict is not None:
            self._check_prediction()
        schema.check(self.values)
        if isinstance(self.sweep, list):
            self._check_points("sweep", self.sweep)
        else:
            self._check_grid(self.sweep)
        if self.sample is not None:
            if self.sweep:
                raise ValueError("sample and sweep both make variants: give one of them")
            self._check_points("sample.from", self._drawn)
        for number, weight in enumerate(self.weights, 1):
            if isinstance(weight, bool) or not isinstance(weight, int | float) or weight <= 0:
                raise ValueError(f"sample.from: combination {number}: {WEIGHT} {weight!r} is not a number over 0")
        if isinstance(self.columns, dict):
            schema.check(dict.fromkeys(self.columns))
        return self

    def _check_prediction(self) -> None:
        labels = self.schema.labels
        if not labels:
            raise ValueError(f"predict: a model of schema {self.schema.label} reads the values; karakuri-apm writes them")
        if self.predict not in labels:
            raise ValueError(f"predict: a model of schema {self.schema.label} writes values: name {' or '.join(labels)}")
        if self.values or self.sweep or self.sample is not None or isinstance(self.columns, dict):
            raise ValueError("predict: the model writes the values: give no values, sweep, sample or columns")

    def _check_grid(self, grid: dict[str, list[Any]]) -> None:
        for name, values in grid.items():
            if not values:
                raise ValueError(f"sweep.{name} is empty")
            for value in values:
                if not self.schema.check({name: value}):
                    raise ValueError(f"sweep.{name}: null is not a value")
            if len(set(values)) != len(values):
                raise ValueError(f"sweep.{name} names a value twice")

    def _check_points(self, where: str, points: list[Fields]) -> None:
        for number, point in enumerate(points, 1):
            try:
                checked = self.schema.check(point)
            except ValueError as error:
                raise ValueError(f"{where}: combination {number}: {error}") from None
            if not checked:
                raise ValueError(f"{where}: combination {number} sets nothing")

    @functools.cached_property
    def schema(self) -> Schema:  # type: ignore[override]
        if not isinstance(self.schema_, str):
            return self.schema_
        if self.schema_ not in BUILT_IN:
            raise ValueError(f"unknown schema {self.schema_!r}; built in are {', '.join(BUILT_IN)}")
        return BUILT_IN[self.schema_]

    @property
    def variants(self) -> int:
        """How many prompts a row makes."""
        return self.sample.k if self.sample is not None else len(self.points)

    @property
    def varied(self) -> list[str]:
        """Names of the attributes in which the variants of a row differ."""
        return list(dict.fromkeys(name for point in self.points for name in point))

    @functools.cached_property
    def points(self) -> list[dict[str, int]]:
        """The combinations of the sweep or of the sample, checked; one that sets nothing without either."""
        points: list[Fields] = self.sweep if isinstance(self.sweep, list) else sweep(self.sweep)
        points = self._drawn if self.sample is not None else points or [{}]
        return [self.schema.check(point) for point in points]

    @property
    def weights(self) -> list[float]:
        """How likely each combination of the sample is beside the others."""
        return [point.get(WEIGHT, 1) for point in self._combinations]

    @property
    def _combinations(self) -> list[Fields]:
        """The combinations of the sample, once those of a file are in its place (read/discover.py)."""
        return self.sample.from_ if self.sample is not None and isinstance(self.sample.from_, list) else []

    @property
    def _drawn(self) -> list[Fields]:
        """The combinations of the sample without their weights."""
        return [{name: value for name, value in point.items() if name != WEIGHT} for point in self._combinations]

    @property
    def names(self) -> tuple[str, ...]:
        """The attributes that rows carry: none where the model writes them."""
        return () if self.predict is not None else tuple(self.schema.names)

    def column_of(self) -> dict[str, str]:
        """Attribute name -> input column that may hold a row's own value."""
        if self.columns is False or self.predict is not None:
            return {}
        renamed = self.columns if isinstance(self.columns, dict) else {}
        return {name: renamed.get(name, name) for name in self.schema.names}


def with_prediction(fields: Fields) -> Fields:
    """The fields of a job; those of a label job with what follows from `predict`, where they do not say it themselves."""
    attributes = fields.get("attributes")
    asked = attributes if isinstance(attributes, dict) else {}
    schema = BUILT_IN.get(str(asked.get("schema")))
    labels = schema.labels.get(str(asked.get("predict"))) if schema else None
    if schema is None or labels is None:
        return fields
    ranges = {name: "[{}-{}]".format(*schema.limits(name)) for name in labels.names}
    pattern = "".join(f" {name}: {digits}" for name, digits in ranges.items())
    named = " ".join(f"{name}: (?P<{name}>{digits})" for name, digits in ranges.items())
    greedy = {"temperature": 0, "max_tokens": 64, "stop": labels.end, "structured_outputs": {"regex": pattern}}
    made = {"parse": {"regex": named, "columns": dict.fromkeys(ranges, "integer")}, **fields}
    for name, inner in {"input": {"continue_final_message": False, "answer_role": "label"}, "sampling": greedy}.items():
        own = in_full(name, fields.get(name))
        if own is None or isinstance(own, dict):
            made[name] = inner | (own or {})
    return made

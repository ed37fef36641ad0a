"""The `attributes` field of a job: a schema by name or in full, values, a sweep or draws, columns."""

from __future__ import annotations

import functools
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from batchgen.job import schemas as attrs
from batchgen.job.fields import MOST, Spec

WEIGHT = "weight"
"""Key of a combination: how likely it is beside the others."""


class LayoutSpec(Spec):
    template: str | None = Field(
        None, description="Jinja chat template that reads the values from the keys of each user message."
    )
    block: str | None = Field(None, description="Text beside user messages; {pairs} stands for the values.")
    pair: str = Field("{name}: {value}", description="One value in the block.")
    separator: str = Field(" ", description="Between two values in the block.")
    where: Literal["suffix", "prefix"] = Field("suffix", description="The block's side of the message text.")
    turns: Literal["all", "last"] = Field("all", description="Which user messages carry the block.")

    @model_validator(mode="after")
    def _one_form(self) -> LayoutSpec:
        if (self.template is None) == (self.block is None):
            raise ValueError("give exactly one of template and block")
        if self.block is not None and "{pairs}" not in self.block:
            raise ValueError("block must contain {pairs}")
        try:
            self.pair.format(name="", value="")
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(f"pair may have the fields {{name}} and {{value}} only ({error!r})") from None
        return self


Range = Annotated[list[Annotated[int, Field(ge=-MOST, le=MOST)]], Field(min_length=2, max_length=2)]


class SchemaSpec(Spec):
    names: list[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")]] = Field(
        min_length=1, description="Attribute names, in the prompt's order."
    )
    range: Range | dict[str, Range] = Field([0, 4], description="[low, high], both included; for all or by name.")
    defaults: dict[str, int] = Field({}, description="Value of an attribute that nobody sets; else the low end.")
    layout: LayoutSpec | None = Field(None, description="The text form, for a model whose template does not read the values.")

    def build(self) -> attrs.Schema:
        for name in {"role", "content", "messages"} & set(self.names):
            raise ValueError(f"an attribute cannot be called {name}: chat templates mean something else by it")
        if len(set(self.names)) != len(self.names):
            raise ValueError("names has a name twice")
        for name in [*self.defaults, *(self.range if isinstance(self.range, dict) else ())]:
            if name not in self.names:
                raise ValueError(f"{name} is not among names")
        made = []
        for name in self.names:
            low, high = self.range.get(name, [0, 4]) if isinstance(self.range, dict) else self.range
            attribute = attrs.Attribute(name, low, high, self.defaults.get(name, low))
            attribute.check(attribute.default)
            made.append(attribute)
        layout = attrs.Layout(**self.layout.model_dump()) if self.layout else None
        return attrs.Schema("custom", tuple(made), layout)


class Draw(Spec):
    k: int = Field(ge=1, le=1024, description="Draws for each row, one variant each; one may come twice.")
    from_: str | Annotated[list[dict[str, Any]], Field(min_length=1)] = Field(
        alias="from",
        description="The combinations: a list, or a local JSONL or Parquet file (of training rows) in columns of their names.",
    )
    seed: int = Field(0, description="Of the draws; a row's draws depend on it and on the row's name alone.")

    @property
    def combinations(self) -> list[dict[str, Any]]:
        """The combinations, once a file's are in its place (read/combinations.py)."""
        assert not isinstance(self.from_, str)
        return self.from_


class Attributes(Spec):
    schema_: str | SchemaSpec = Field(
        alias="schema", description=f"A built-in name ({', '.join(attrs.BUILT_IN)}) or a schema of your own."
    )
    values: dict[str, Any] = Field({}, description="Values for every row; a row's own column wins.")
    sweep: dict[str, list[Any]] | list[dict[str, Any]] = Field(
        {}, description="Every row times every combination of these values, or times every mapping of a list."
    )
    sample: Draw | None = Field(None, description="Every row with k combinations drawn from many, instead of a sweep.")
    predict: str | None = Field(
        None,
        description="Of a schema whose model writes the values (karakuri-apm): which labels (helpsteer, oasst). "
        "It sets the labeler's prompt, constraint, stop and `parse`.",
    )
    columns: dict[str, str] | bool = Field(
        True, description="true: the columns that bear the names; a mapping renames them; false: none."
    )

    @model_validator(mode="after")
    def _check(self) -> Attributes:
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
            if not isinstance(self.sample.from_, str):
                self._check_points("sample.from", self.sample.from_)
        if isinstance(self.columns, dict):
            schema.check(dict.fromkeys(self.columns))
        return self

    def _check_prediction(self) -> None:
        labels = self.schema.labels
        if not labels:
            raise ValueError(f"predict: a model of schema {self.schema.name} reads the values; karakuri-apm writes them")
        if self.predict not in labels:
            raise ValueError(f"predict: a model of schema {self.schema.name} writes values: name {' or '.join(labels)}")
        if self.values or self.sweep or self.sample is not None or isinstance(self.columns, dict):
            raise ValueError("predict: the model writes the values: give no values, sweep, sample or columns")

    def _check_grid(self, grid: dict[str, list[Any]]) -> None:
        for name, values in grid.items():
            if not values:
                raise ValueError(f"sweep.{name} is empty")
            for value in values:
                if value is None:
                    raise ValueError(f"sweep.{name}: null is not a value")
                self.schema.check({name: value})
            if len(set(values)) != len(values):
                raise ValueError(f"sweep.{name} names a value twice")

    def _check_points(self, where: str, points: list[dict[str, Any]]) -> None:
        for number, point in enumerate(points, 1):
            try:
                checked = self.schema.check({name: value for name, value in point.items() if name != WEIGHT})
            except ValueError as error:
                raise ValueError(f"{where}: combination {number}: {error}") from None
            if not checked:
                raise ValueError(f"{where}: combination {number} sets nothing")
            weight = point.get(WEIGHT, 1)
            if isinstance(weight, bool) or not isinstance(weight, int | float) or weight <= 0:
                raise ValueError(f"{where}: combination {number}: {WEIGHT} {weight!r} is not a number over 0")

    @functools.cached_property
    def schema(self) -> attrs.Schema:  # type: ignore[override]
        if not isinstance(self.schema_, str):
            return self.schema_.build()
        if self.schema_ not in attrs.BUILT_IN:
            raise ValueError(f"unknown schema {self.schema_!r}; built in are {', '.join(attrs.BUILT_IN)}")
        return attrs.BUILT_IN[self.schema_]

    @property
    def variants(self) -> int:
        """How many prompts a row makes."""
        return self.sample.k if self.sample is not None else len(self.points)

    @property
    def varied(self) -> list[str]:
        """Names of the attributes in which the variants of a row differ."""
        if self.sample is not None:
            return list(dict.fromkeys(name for point in self.sample.combinations for name in point if name != WEIGHT))
        return list(dict.fromkeys(name for point in self.points for name in point))

    @functools.cached_property
    def points(self) -> list[dict[str, int]]:
        """The values of each variant of a sweep, checked; one without any where there is no sweep."""
        points = self.sweep if isinstance(self.sweep, list) and self.sweep else attrs.sweep(self.sweep or {})  # type: ignore[arg-type]
        return [self.schema.check(point) for point in points]

    @property
    def names(self) -> tuple[str, ...]:
        """The attributes that rows carry: none where the model writes them."""
        return () if self.predict is not None else self.schema.names

    def column_of(self) -> dict[str, str]:
        """Attribute name -> input column that may hold a row's own value."""
        if self.columns is False or self.predict is not None:
            return {}
        renamed = self.columns if isinstance(self.columns, dict) else {}
        return {name: renamed.get(name, name) for name in self.schema.names}

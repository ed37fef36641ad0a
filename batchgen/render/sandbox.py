"""Chat templates and templates of rows: Jinja in a sandbox, compatible with Transformers'. They are untrusted: what they reach,
their time and their memory are limited. In a row, null is a value that is missing, and is never printed."""

import math
from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from datetime import time as time_of_day
from decimal import Decimal
from typing import Any

import jinja2
import jinja2.compiler
import jinja2.meta
import jinja2.nodes

from batchgen.errors import BadRow, ModelError
from batchgen.records import Message
from batchgen.render.safe.budget import ELEMENT, VALUE_CAP, budget, charge
from batchgen.render.safe.environment import SafeEnvironment
from batchgen.render.safe.time_limit import time_limit

SECONDS_CAP = 10.0
_TEXT_MAKERS = (  # filters
    *("capitalize", "e", "escape", "forceescape", "indent", "join", "lower", "replace", "string", "striptags", "title", "trim"),
    *("truncate", "upper", "urlencode", "wordcount"),
)


class ChatTemplate:
    """A compiled template; `label` names its model in errors. Raises ModelError for one that does not compile."""

    def __init__(self, source: str, label: str) -> None:
        try:
            with budget():  # what is constant is computed here
                self._template = _ENVIRONMENT.from_string(source)
        except Exception as error:  # a template can raise anything
            raise ModelError(f"chat template of {label}: {_cause(error)}") from None
        self.shows_calls = "tool_calls" in source

    def render(self, messages: list[Message], variables: Mapping[str, object], answering: bool = True) -> str:
        """The conversation as text, with `answering` ready for the model to answer. Raises BadRow (render)."""
        known = {"tools": None, "documents": None, "bos_token": "", "eos_token": "", **variables}
        return _render(self._template, {"messages": messages, "add_generation_prompt": answering, **known}, "chat template")


class RowTemplate:
    """A text with a row's columns in it (`input.template`, or another `field`). `row` is the columns that it names, for one
    whose name is no word: {{ row["my column"] }}; a column called row wins. Raises ValueError for one that does not compile."""

    def __init__(self, source: str, field: str = "input.template") -> None:
        self._field = field
        try:
            with budget():
                self._template = _ROW_ENVIRONMENT.from_string(source)
                names = _Names(source)
        except Exception as error:  # a template can raise anything
            raise ValueError(_cause(error)) from None
        used, self._whole = names.undeclared_identifiers, "row" in names.undeclared_identifiers and not names.bare
        own = used & _ROW_ENVIRONMENT.globals.keys() | ({"row"} if self._whole else set())
        self.columns = frozenset(used - own | (names.columns if self._whole else set()))
        self.optional = frozenset(own)  # a row's column of such a name wins over Jinja's own

    def render(self, row: Mapping[str, object]) -> str:
        """The text of a row. Raises BadRow (render)."""
        variables = {name: row[name] for name in self.columns | self.optional if name in row}
        given = {"row": _Row(variables), **variables} if self._whole else variables
        return _render(self._template, given, self._field, lambda error: self._cause(error, variables))

    def _cause(self, error: Exception, row: Mapping[str, object]) -> str:
        """With the columns that may be to blame where null is."""
        text = _cause(error)
        if not isinstance(error, _Missing) and not (isinstance(error, TypeError | jinja2.UndefinedError) and "None" in text):
            return text
        names = [name if name.isidentifier() else f'row["{name}"]' for name in sorted(row) if _holds(row[name], _missing)]
        where = f" (of {' or '.join(names)})" if names else ""
        return (
            f'{text}{where}: give it a default, {{{{ {names[0] if names else "x"} | default("...") }}}}, or leave such rows out'
        )


def _cause(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "it is out of memory"
    return "it calls itself, or nests, too deeply" if isinstance(error, RecursionError) else str(error) or type(error).__name__


def _render(
    template: jinja2.Template, variables: Mapping[str, object], what: str, cause: Callable[[Exception], str] = _cause
) -> str:
    pieces, units = list[str](), 0
    try:
        with budget(variables), time_limit(SECONDS_CAP):
            for piece in template.generate(**variables):
                pieces.append(piece)
                units += ELEMENT + len(piece)
                if units > VALUE_CAP // 2:
                    charge(units)
                    units = 0
            charge(sum(map(len, pieces)))
    except TimeoutError:
        raise BadRow("render", f"{what}: not done after {SECONDS_CAP:g} s") from None
    except Exception as error:  # a template can raise anything
        raise BadRow("render", f"{what}: {cause(error)}") from None
    return "".join(pieces)


class _Names(jinja2.meta.TrackingCodeGenerator):
    """The names that a template takes from its row, and the columns that it takes from `row`."""

    def __init__(self, source: str) -> None:
        super().__init__(_NO_NAMES)
        self.columns, self.bare = set[str](), False
        self.visit(_NO_NAMES.parse(source))

    def _is_row(self, node: jinja2.nodes.Node, frame: jinja2.compiler.Frame) -> bool:
        if not isinstance(node, jinja2.nodes.Name) or node.name != "row" or node.ctx != "load":
            return False
        load = frame.symbols.find_load(frame.symbols.ref("row"))
        return load is not None and load[0] == "resolve"

    def visit_Name(self, node: jinja2.nodes.Name, frame: jinja2.compiler.Frame) -> None:
        self.bare |= self._is_row(node, frame)
        super().visit_Name(node, frame)

    def visit_Getattr(self, node: jinja2.nodes.Getattr, frame: jinja2.compiler.Frame) -> None:
        if self._is_row(node.node, frame):
            self.columns.add(node.attr)
        else:
            super().visit_Getattr(node, frame)

    def visit_Getitem(self, node: jinja2.nodes.Getitem, frame: jinja2.compiler.Frame) -> None:
        if not self._is_row(node.node, frame):
            super().visit_Getitem(node, frame)
        elif isinstance(node.arg, jinja2.nodes.Const) and isinstance(node.arg.value, str):
            self.columns.add(node.arg.value)
        else:
            raise jinja2.TemplateError('row[...] takes the name of a column as it is: row["my column"]')

    def visit_Call(self, node: jinja2.nodes.Call, frame: jinja2.compiler.Frame, forward_caller: bool = False) -> None:
        if isinstance(node.node, jinja2.nodes.Getattr) and self._is_row(node.node.node, frame):
            raise jinja2.TemplateError(f'row has no {node.node.attr}(): name a column, row["my column"]')
        super().visit_Call(node, frame, forward_caller=forward_caller)


class _Row:
    """The columns of a row by name, and nothing else."""

    def __init__(self, row: Mapping[str, object]) -> None:
        self._row = row

    def __getitem__(self, name: str) -> object:
        return self._row[name] if name in self._row else _ROW_ENVIRONMENT.undefined(name=name)


class _Missing(jinja2.TemplateError):
    """A null or a NaN of the row is about to be printed."""


def _missing(value: object) -> bool:
    return value is None or (isinstance(value, float | Decimal) and math.isnan(value))


def _not_json(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _holds(value: object, bad: Callable[[object], bool]) -> bool:
    """Whether a value is, or has in it, what is bad."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return bad(value) or any(_holds(part, bad) for part in parts)


class _RowEnvironment(SafeEnvironment):
    def __init__(self) -> None:
        super().__init__(_text_of)
        self.filters |= dict.fromkeys(("d", "default"), self.charged("default", _default))

    def refuse_missing(self, value: object) -> None:
        if _holds(value, _missing):
            raise _Missing("it prints null or NaN")

    def check_filter(self, name: str, given: list[Any]) -> None:
        if name in _TEXT_MAKERS:
            self.refuse_missing(given)
        elif name == "tojson" and _holds(given[0], _not_json):
            raise _Missing("it prints NaN or Infinity, which JSON has not")
        elif name not in ("attr", "d", "default", "tojson") and _missing(given[0]):
            raise _Missing(f"{name} is of null or NaN")


def _default(value: object, default: object = "", boolean: bool = False) -> object:
    """Jinja's, for which null is missing too."""
    return default if _missing(value) or isinstance(value, jinja2.Undefined) or (boolean and not value) else value


def _text_of(value: object) -> object:
    """A value of a row that a template prints. Raises TemplateError for one that is no text, which Python would print as code."""
    if _missing(value):
        raise _Missing(f"it prints {'null' if value is None else 'NaN'}")
    if isinstance(value, str | int | float | datetime | date | time_of_day | timedelta | Decimal | jinja2.Undefined):
        return value
    if isinstance(value, dict | list | tuple):
        raise jinja2.TemplateError("it prints an object or a list: use the filter tojson or join")
    raise jinja2.TemplateError(f"it prints a value of type {type(value).__name__}, which is no text")


_ENVIRONMENT, _ROW_ENVIRONMENT, _NO_NAMES = SafeEnvironment(), _RowEnvironment(), SafeEnvironment()
_NO_NAMES.globals.clear()

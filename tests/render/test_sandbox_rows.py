"""sandbox.py: what a row's template prints of null, and of columns whose names are no words."""

from __future__ import annotations

import pytest

from batchgen.errors import BadRow
from batchgen.render.sandbox import RowTemplate

NAN, INFINITY = float("nan"), float("inf")
ROW = {"a": "text", "x": None, "nan": NAN, "list": ["a", None], "deep": {"k": [NAN]}, "tags": ["a", "b"], "inf": INFINITY}


def render(source: str, **row: object) -> str:
    return RowTemplate(source).render(row or ROW)


FILTERS = [
    *("trim", "string", "upper", "lower", "title", "capitalize", "replace('N','M')", "int", "float", "length", "count", "round"),
    *("list", "first", "e", "escape", "forceescape", "safe", "urlencode", "indent", "truncate", "wordcount", "striptags", "abs"),
    *("reverse", "sort", "sum", "filesizeformat"),
]
PRINTING = [
    "{{ COLUMN }}",
    "{{ COLUMN ~ 'a' }}",
    "{{ 'a' ~ COLUMN }}",
    "{{ '%s' % COLUMN }}",
    "{{ '%s %s' % (COLUMN, 'a') }}",
    "{{ '{}'.format(COLUMN) }}",
    "{{ '{k}'.format(k=COLUMN) }}",
    "{{ '{k}'.format_map({'k': COLUMN}) }}",
    "{{ [COLUMN, 'a'] | join(',') }}",
    "{{ ','.join([COLUMN, 'a']) }}",
    "{{ [COLUMN] | map('string') | list }}",
    "{{ 'a' | replace('a', COLUMN) }}",
    "{% filter upper %}{{ COLUMN }}{% endfilter %}",
    "{% macro m(y) %}{{ y }}{% endmacro %}{{ m(COLUMN) }}",
    "{% set y %}{{ COLUMN }}{% endset %}{{ y }}",
    *("{{ COLUMN | " + each + " }}" for each in FILTERS),
]


@pytest.mark.parametrize("column", ["x", "nan"])
@pytest.mark.parametrize("source", PRINTING)
def test_null_and_nan_are_never_printed(source: str, column: str) -> None:
    with pytest.raises(BadRow, match=rf"\(of .*{column}.*\): give it a default, .*default") as refused:
        render(source.replace("COLUMN", column), a="text", **{column: ROW[column]})
    assert refused.value.code == "render"
    assert f"{{{{ {column} | default(" in str(refused.value)


@pytest.mark.parametrize(
    "source",
    [
        *("{{ list | join }}", "{{ list | string }}", "{{ deep | string }}", "{{ '%s' % deep }}", "{{ '{}'.format(list) }}"),
        *("{{ nan | tojson }}", "{{ inf | tojson }}", "{{ deep | tojson }}", "{{ [inf] | tojson(indent=2) }}", "{{ x.strip() }}"),
        *("{{ 'a' + x }}", "{{ nan + 1 }}", "{{ [nan] | max }}"),
    ],
)
def test_nor_inside_of_a_value_nor_as_what_json_has_not(source: str) -> None:
    with pytest.raises(BadRow, match="default"):
        render(source)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ x | default('none') }}{{ nan | d('no') }}{{ a | default('b') }}{{ other | default('c') }}", "nonenotextc"),
        ("{% if x is none %}null{% endif %}{% if x %}x{% endif %}{% if x is defined %}defined{% endif %}", "nulldefined"),
        ("{% if not x and x != 'a' %}b{% endif %}{{ '' | default('c', true) }}", "bc"),
        ("{{ x | tojson }} {{ list | tojson }}", 'null ["a", null]'),
        ("{{ list | select | join }}{{ tags | join('-') }}{{ list | length }}{{ list | first }}", "aa-b2a"),
        ("{{ a | trim | upper }} {{ '%s' % a }} {{ '{:>5}'.format(a) }} {{ true }} {{ inf }}", "TEXT text  text True inf"),
    ],
)
def test_what_is_not_missing_is_printed(source: str, text: str) -> None:
    assert render(source) == text


def test_row_names_a_column_whose_name_is_no_word() -> None:
    template = RowTemplate("{{ row['my column'] }}{{ row.b }}{{ row.items | upper }}{% if c %}{{ row['c-d'] | trim }}{% endif %}")
    assert template.columns == {"my column", "b", "items", "c", "c-d"}
    assert template.optional == {"row"}
    assert template.render({"my column": "a", "b": 1, "items": "i", "c": True, "c-d": " d", "e": "?"}) == "a1Id"
    with pytest.raises(BadRow, match="'b' is undefined"):
        template.render({"my column": "a"})
    with pytest.raises(BadRow, match=r"of row\[\"my column\"\]"):
        template.render({"my column": None})
    assert RowTemplate("{{ row['a'] }}").render({"a": 1, "row": {"a": 2}}) == "2", "a column called row wins"


def test_row_of_a_loop_is_the_loops_own() -> None:
    template = RowTemplate(
        "{% for row in rows %}{{ row.x }}{{ row[loop.index0] }}{{ row.items() | length }}{% endfor %}{{ row.y }}"
    )
    assert template.columns == {"rows", "y"}
    assert RowTemplate("{{ row }}").columns == {"row"}, "a column"


@pytest.mark.parametrize(
    "source", ["{{ row[x] }}", "{{ row['a' ~ 'b'] }}", "{{ row[0] }}", "{{ row.items() }}", "{{ row['a':] }}"]
)
def test_row_takes_constant_names_only(source: str) -> None:
    with pytest.raises(ValueError, match=r'row.*name.*row\["my column"\]'):
        RowTemplate(source)

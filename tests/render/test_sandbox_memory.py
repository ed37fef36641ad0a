"""sandbox.py: what a template makes is counted before it is made, whatever makes it."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time

import pytest

from batchgen.errors import BadRow
from batchgen.render import sandbox
from batchgen.render.sandbox import ChatTemplate

GROWN = "{% set ns = namespace(x='ab', l=[1], t=(1,), d={}) %}{% for i in range(200) %}{} {% endfor %}"
BIG, LONG = "('a' * 10**7)", "('ab' * 10**6)"
TWICE = "{% for i in range(90000) %}{% for j in range(90) %}"
MANY = "([0] * 4 * 10**5)"
ATTACKS = {
    "sum of lists": "{{ ([[0] * 1000] * 1000) | sum(start=[]) | length }}",
    "sum of texts": "{{ ['a'] | sum(start='') }}",
    "product": "{{ 9 ** 1200 * 9 ** 1200 * 9 ** 1200 }}",
    "square": "{% set ns = namespace(x=3) %}{% for i in range(40) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "added": "{% set ns = namespace(x=3) %}{% for i in range(90000) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "power": "{{ 2 ** (10 ** 9) }}",
    "power of a power": "{{ (2 ** 4000) ** 4000 }}",
    "int of a text": "{{ ('f' * 10**6) | int(base=16) }}",
    "round": "{{ 5 | round(-10**7) }}",
    "round up": "{{ 5 | round(10**7, 'ceil') }}",
    "to_bytes": "{{ (5).to_bytes(10**9, 'big') }}",
    "text times": "{{ 'a' * 10**9 }}",
    "times text": "{{ 10**9 * 'a' }}",
    "list times": "{{ [1] * 10**8 }}",
    "tuple times": "{{ (1,) * 10**8 }}",
    "expandtabs": "{{ ('\t' * 10**5).expandtabs(10**6) }}",
    "expandtabs by name": "{{ '\t'.expandtabs(tabsize=10**9) }}",
    "nested width": "{{ '{:{}}'.format('', 10**8) }}",
    "width": "{{ '{:>99999999}'.format(1) }}",
    "many widths": "{{ ('{:>9999999}' * 100).format(*range(100)) }}",
    "width of a map": "{{ '{a:>999999999}'.format_map({'a': 1}) }}",
    "percent width": "{{ '%999999999d' % 1 }}",
    "percent star": "{{ '%*d' % (10**8, 1) }}",
    "percent precision": "{{ '%.999999999f' % 1 }}",
    "percent many": "{{ ('%(a)s' * 1000) % {'a': " + LONG + "} }}",
    "percent by a test": "{{ '%999999999d' is odd }}",
    "percent by divisibleby": "{{ '%999999999d' is divisibleby(3) }}",
    "percent by select": "{{ ['%999999999d'] | select('odd') | list }}",
    "width by attr": "{{ ('{:>999999999}' | attr('format'))(1) }}",
    "width by map": "{% for f in ['{:>999999999}'] | map(attribute='format') %}{{ f(1) }}{% endfor %}",
    "width of safe text": "{{ ('{:>999999999}' | safe).format(1) }}",
    "kept safe texts": "{% set ns = namespace(l=[]) %}{% for i in range(999) %}"
    "{% set ns.l = ns.l + [('a' * 10**6) | safe] %}{% endfor %}",
    "formatted once more": "{{ ('{0}' * 1000).format(" + LONG + ") }}",
    "tojson indent": "{{ [[1]] | tojson(indent=10**7) }}",
    "tojson indent text": "{{ [[1]] | tojson(indent='a' * 10**7) }}",
    "tojson separators": "{{ [1, 2, 3] | tojson(separators=('a' * 10**7, 'b')) }}",
    "translate": "{{ ('a' * 10**4).translate({97: 'b' * 10**6}) }}",
    "maketrans": "{{ ''.maketrans('a' * 10**7, 'b' * 10**7) }}",
    "set block": GROWN.replace("{} ", "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}"),
    "filter block": GROWN.replace("{} ", "{% set y %}{% filter upper %}{{ ns.x }}{{ ns.x }}{% endfilter %}"
    "{% endset %}{% set ns.x = y %}"),
    "macro": "{% macro m(x) %}{{ x }}{{ x }}{% endmacro %}" + GROWN.replace("{} ", "{% set ns.x = m(ns.x) %}"),
    "call block": "{% macro m() %}{{ caller() }}{{ caller() }}{% endmacro %}"
    + GROWN.replace("{} ", "{% set y %}{% call m() %}{{ ns.x }}{% endcall %}{% endset %}{% set ns.x = y %}"),
    "block": "{% block b %}{% if n %}{% endif %}" + "a" * 1000 + "{% endblock %}{% for i in range(90000) %}"
    "{{ self.b() }}{% endfor %}",
    "one buffer": "{% set x = " + BIG + " %}{% set y %}{% for i in range(1000) %}{{ x }}{% endfor %}{% endset %}",
    "buffer of constants": "{% set y %}{% for i in range(90000) %}{% for j in range(90000) %}x{% endfor %}"
    "{% endfor %}{% endset %}",
    "recursive loop": "{% set x = " + BIG + " %}{% for i in [[], []] recursive %}{{ x }}"
    "{{ loop([[]]) if loop.depth < 90 }}{% endfor %}",
    "output": "{% set x = " + BIG + " %}{{ x }}{{ x }}{{ x }}",
    "concat": GROWN.replace("{} ", "{% set ns.x = ns.x ~ ns.x %}"),
    "concat of many": "{% set x = " + BIG + " %}{{ x ~ x ~ x ~ x ~ x }}",
    "plus": GROWN.replace("{} ", "{% set ns.x = ns.x + ns.x %}"),
    "lists plus": GROWN.replace("{} ", "{% set ns.l = ns.l + ns.l %}"),
    "kept texts": "{% set ns = namespace(l=[]) %}{% for i in range(5000) %}"
    "{% set ns.l = ns.l + [('a' * 10**5) ~ i] %}{% endfor %}",
    "kept lists": "{% set ns = namespace(l=[]) %}{% for i in range(90000) %}{% set ns.l = ns.l + [i] %}{% endfor %}",
    "kept slices": "{% set x = " + BIG + " %}{% set ns = namespace(l=[]) %}{% for i in range(999) %}"
    "{% set ns.l = [x[i:]] + ns.l %}{% endfor %}",
    "nested slices": "{% set l = " + MANY + " %}{% for i in range(9000) %}{% set x = l[i:] %}{% endfor %}",
    "escape": "{{ ('<' * 10**7) | escape }}",
    "forceescape": "{{ ('<' * 10**7) | forceescape }}",
    "urlencode": "{{ ('<' * 10**7) | urlencode }}",
    "title": "{{ ('a b ' * 10**6) | title }}",
    "wordcount": "{{ ('ab ' * 10**6) | wordcount }}",
    "striptags": "{{ ('ab ' * 10**6) | striptags }}",
    "list": "{{ " + BIG + " | list | length }}",
    "sort": "{{ " + BIG + " | sort | length }}",
    "unique": "{{ " + BIG + " | unique | list | length }}",
    "groupby": "{{ " + BIG + " | groupby('x') | length }}",
    "map": "{{ " + BIG + " | map('upper') | list | length }}",
    "select": "{{ " + BIG + " | select | list | length }}",
    "join of a map": "{{ range(90000) | map('replace', '', 'a' * 10**4) | join }}",
    "join of a text": "{{ " + LONG + " | join('b' * 10**5) }}",
    "join": "{{ ('b' * 10**5).join(('a' * 10**5) | list) }}",
    "join of a key": "{{ ('b' * 10**5).join({'a': 1, 'b': 2}) * 1000 }}",
    "list of lists": "{{ ([''] * 90000) | map('default', 'a' * 10**5, true) | list | join }}",
    "split": "{{ " + LONG + ".split('a') | length }}",
    "split of spaces": "{{ ('a ' * 5 * 10**6).split() | length }}",
    "splitlines": "{{ ('a\n' * 10**6).splitlines() | length }}",
    "rsplit": "{{ " + LONG + ".rsplit('a') | length }}",
    "replace of nothing": "{{ " + LONG + ".replace('', 'a' * 100) | length }}",
    "replace": "{{ " + LONG + " | replace('a', 'b' * 100) | length }}",
    "indent": "{{ ('a\n' * 10**5) | indent(10**5) }}",
    "indent of text": "{{ ('a\n' * 10**5) | indent('b' * 10**5) }}",
    "ljust": "{{ 'a'.ljust(10**9) }}",
    "rjust": "{{ 'a'.rjust(10**9) }}",
    "center": "{{ 'a'.center(10**9) }}",
    "zfill": "{{ 'a'.zfill(10**9) }}",
    "encode": "{{ " + BIG + ".encode('utf-32') }}",
    "strftime": "{{ strftime_now('%Y' * 10**6) }}",
    "range": "{{ range(10**9) | list | length }}",
    "dict": "{{ dict.fromkeys('あ' * 10**7, 1) }}",
    "rfind": "{{ ('a' * 10**7).rfind('ab' ~ 'a' * 10**6) }}",
    "strip": "{{ ('a' * 10**7).strip('b' * 10**6 ~ 'a') }}",
    "trim": "{{ ('a' * 10**7) | trim('b' * 10**6 ~ 'a') }}",
    "shared lists": GROWN.replace("{} ", "{% set ns.l = [ns.l] * 1000 %}") + "{{ ns.l }}",
    "shared lists as JSON": GROWN.replace("{} ", "{% set ns.l = [ns.l, ns.l] %}") + "{{ ns.l | tojson }}",
    "shared lists as JSON with indent": GROWN.replace("{} ", "{% set ns.l = [ns.l, ns.l] %}") + "{{ ns.l | tojson(indent=2) }}",
    "shared lists as text": GROWN.replace("{} ", "{% set ns.l = [ns.l, ns.l] %}") + "{{ ns.l | string }}",
    "shared lists compared": GROWN.replace("{} ", "{% set ns.l = [ns.l, ns.l] %}{% set ns.t = [ns.t, ns.t] %}"
    "") + "{{ ns.l == ns.t }}",
    "shared tuples hashed": GROWN.replace("{} ", "{% set ns.t = (ns.t, ns.t) %}") + "{{ {ns.t: 1} }}",
    "shared objects": GROWN.replace("{} ", "{% set ns.d = {'a': ns.d, 'b': ns.d} %}") + "{{ ns.d }}",
    "shared by dict": GROWN.replace("{} ", "{% set ns.d = dict(a=ns.d, b=ns.d) %}") + "{{ ns.d }}",
    "shared by varargs": "{% macro m(ns) %}{% set ns.t = varargs %}{% endmacro %}"
    + GROWN.replace("{} ", "{{ m(ns, ns.t, ns.t) }}") + "{{ ns.t }}",
    "shared views": GROWN.replace("{} ", "{% set ns.d = {'a': ns.d.items(), 'b': ns.d.values()} if ns.d.items else {} %}")
    + "{{ ns.d }}",
    "shared proxies": "{% set d = {'a': " + BIG + "} %}{{ [d.items().mapping] * 1000 }}",
    "shared methods": "{% set x = " + BIG + " | safe %}{{ [x.join] * 1000 }}",
    "shared texts": "{{ [" + BIG + "] * 1000 }}",
    "deep tuples": "{% set ns = namespace(t=(1,)) %}{% for i in range(90000) %}{% set ns.t = (ns.t,) %}{% endfor %}"
    "{{ {ns.t: 1} }}",
    "deep iterators": "{% set ns = namespace(t=[1]) %}{% for i in range(90000) %}"
    "{% set ns.t = ns.t | map('string') %}{% endfor %}"
    "{{ ns.t | list | length + 'a' }}",
    "deep calls": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "chain of namespaces": "{% set ns = namespace(x=1) %}" + TWICE + "{% set ns.x = namespace(x=ns.x) %}{% endfor %}{% endfor %}",
    "chain of macros": "{% macro make(ns, p) %}{% macro m() %}{{ p }}{% endmacro %}{% set ns.x = m %}{% endmacro %}"
    "{% set ns = namespace(x=1) %}" + TWICE + "{% set y = make(ns, ns.x) %}{% endfor %}{% endfor %}",
    "kept iterators": "{% set ns = namespace(l=[]) %}" + TWICE + "{% set ns.l = [ns.l[:0], [] | map('upper'), 1] %}"
    "{% endfor %}{% endfor %}",
    "kept lists of wide texts": "{% set ns = namespace(l=[]) %}{% for i in range(99) %}"
    "{% set ns.l = ns.l + [('あ' * 10**6) | list] %}{% endfor %}",
    "wide texts as code": "{% set x = '\U000e0001' * 10**7 %}{{ [x] | string }}",
    "wide texts as JSON": "{% set x = '\U000e0001' * 10**7 %}{{ x | tojson(ensure_ascii=true) }}",
    "wide texts": "{% set ns = namespace() %}{% for i in range(99) %}{% set ns.x = '\U000e0001' * 10**7 %}{% endfor %}",
    "loops kept": "{% set ns = namespace(l=[]) %}{% for i in range(90000) %}{% for j in [1] %}"
    "{% set ns.l = [ns.l, loop] %}{% endfor %}{% endfor %}",
    "namespace in itself": "{% set ns = namespace() %}{% set ns.x = [ns, ns] %}{{ ns.x.a.b }}",
    "endless": "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}",
}  # fmt: skip


@pytest.fixture(scope="module")
def refused() -> dict[str, str]:
    """The cause of each attack's refusal, in a process that has little memory."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("attack", sorted(ATTACKS))
def test_nothing_takes_memory_or_time_without_end(refused: dict[str, str], attack: str) -> None:
    cause = refused[attack]
    assert cause.startswith("chat template: "), cause
    assert "memory" not in cause, "refused before it is made"


def _main() -> None:

    sandbox.SECONDS_CAP = 2.0
    resource.setrlimit(resource.RLIMIT_AS, (2_500_000_000, 2_500_000_000))
    causes = {}
    for name, source in ATTACKS.items():
        began = time.monotonic()
        try:
            causes[name] = f"rendered {len(ChatTemplate(source, 'm').render([], {}))} characters"
        except BadRow as bad:
            causes[name] = str(bad)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(f"{time.monotonic() - began:6.2f} s {peak:5} MiB {name}: {causes[name]}", file=sys.stderr)
    print(json.dumps(causes))


if __name__ == "__main__":
    _main()

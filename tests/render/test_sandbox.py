"""sandbox.py: a chat template is somebody else's program, and has neither time nor memory without end."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest

from batchgen.errors import BadRow, ModelError
from batchgen.render import sandbox
from batchgen.render.safe import budget
from batchgen.render.safe import time_limit as limit
from batchgen.render.safe.time_limit import LOOK_SECONDS, time_limit
from batchgen.render.sandbox import ChatTemplate

MESSAGES = [{"role": "user", "content": "hello"}]
DOUBLING = "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = {} %}{% endfor %}{{ ns.x }}"


def render(source: str) -> str:
    return ChatTemplate(source, "m").render(MESSAGES, {})


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a' * 10**9 }}",
        "{{ 10**9 * 'a' }}",
        "{{ [1] * 10**9 }}",
        "{{ 10 ** (10 ** 9) }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '%*d' % (999999999, 1) }}",
        "{{ '{:>999999999}'.format(1) }}",
        "{{ 'a'.ljust(10**9) }}",
        "{{ 'a'.zfill(10**9) }}",
        "{{ ('a' * 10**5).replace('a', 'b' * 10**5) }}",
        "{{ ('a' * 10**5)|replace('', 'b' * 10**5) }}",
        "{{ ('b' * 10**5).join(('a' * 10**5)|list) }}",
        "{{ ('a' * 10**5)|list|join('b' * 10**5) }}",
        "{{ ('a\n' * 10**5)|indent(10**5) }}",
        DOUBLING.replace("{}", "ns.x ~ ns.x"),
        DOUBLING.replace("{}", "ns.x + ns.x"),
        DOUBLING.replace("{}", "ns.x * 2"),
    ],
)
def test_no_operation_makes_a_value_over_the_cap(source: str) -> None:
    with pytest.raises(BadRow, match=r"a value of more than|an integer of more than") as refused:
        render(source)
    assert refused.value.code == "render"


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ 'a' ~ 1 ~ messages[0].content }}", "a1hello"),
        ("{{ 'a' * 3 + 'b' }}", "aaab"),
        ("{{ '%s|%05.1f' % ('x', 2) }}", "x|002.0"),
        ("{{ '{}-{x}'.format(1, x=2) }}", "1-2"),
        ("{{ ['a', 'b']|join(', ') }}{{ ', '.join(['c']) }}", "a, bc"),
        ("{{ messages[0].content|replace('l', 'L') }}", "heLLo"),
        ("{{ 'a\nb'|indent(2) }}", "a\n  b"),
        ("{{ 7 % 4 }}{{ 2 ** 10 }}", "31024"),
    ],
)
def test_what_templates_need_is_there(source: str, text: str) -> None:
    assert render(source) == text


def test_a_template_without_end_is_a_render_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "SECONDS_CAP", 0.3)
    loop = "{% for i in range(99999) %}{% for j in range(99999) %}{% if i + j < 0 %}x{% endif %}{% endfor %}{% endfor %}"
    with pytest.raises(BadRow, match=r"chat template: not done after 0\.3 s") as refused:
        render(loop)
    assert refused.value.code == "render"
    monkeypatch.undo()
    assert render("{{ messages[0].content }}") == "hello", "the next one has its own time"


def spin() -> None:
    while True:
        pass


def test_the_cap_ends_a_loop_in_any_thread_and_no_other_thread() -> None:
    found: dict[str, str] = {}

    def capped() -> None:
        try:
            with time_limit(0.1):
                spin()
        except TimeoutError:
            found["capped"] = "ended"

    def free() -> None:
        with time_limit(60):
            while "capped" not in found:
                time.sleep(0.01)
        found["free"] = "done"

    threads = [threading.Thread(target=target) for target in (capped, free)]
    [thread.start() for thread in threads]
    [thread.join(60) for thread in threads]
    assert found == {"capped": "ended", "free": "done"}


def test_an_error_of_the_body_is_the_bodys_and_time_left_over_is_not_carried_on(monkeypatch: pytest.MonkeyPatch) -> None:
    now, looks = 0.0, 0

    def look(_: float) -> None:
        nonlocal looks
        looks += 1
        time.sleep(0.001)

    monkeypatch.setattr(limit, "time", SimpleNamespace(monotonic=lambda: now, sleep=look))
    with pytest.raises(KeyError), time_limit(0.2):
        raise KeyError
    with time_limit(60):
        now, before = 50.0, looks
        while looks < before + 5:
            time.sleep(0.001)


def test_a_cap_that_fires_as_the_body_ends_raises_at_the_cap_and_not_later() -> None:
    ended = 0
    while ended < 3:
        try:
            with time_limit(0.0):
                time.sleep(LOOK_SECONDS)
        except TimeoutError:
            ended += 1
    assert ended == 3, "and nothing else was raised"


@pytest.mark.parametrize("error", [MemoryError(), RecursionError(), ValueError()])
def test_an_error_without_a_message_has_a_cause(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise error

    template = ChatTemplate("{{ messages }}{{ messages | tojson }}", "m")
    monkeypatch.setattr(sandbox, "budget", fail)
    with pytest.raises(BadRow, match=r"^chat template: (it is out of memory|it calls itself, or nests, too deeply|ValueError)$"):
        template.render([], {})


def test_a_template_that_breaks_the_compiler_is_the_models_error() -> None:
    with pytest.raises(ModelError, match="chat template of m: "):
        ChatTemplate("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "m")


def test_long_conversations_may_take_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "VALUE_CAP", 10_000)
    template = ChatTemplate("{% for m in messages %}{{ m.content | trim }}{% endfor %}", "m")
    assert len(template.render([{"role": "user", "content": "a" * 20_000}], {})) == 20_000
    with pytest.raises(BadRow, match="a value of more than 100"):
        render("{{ 'a' * 20000 }}")

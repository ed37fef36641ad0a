"""Images by URL: which URLs are of the hosts that the job names."""

from __future__ import annotations

import json
from typing import Any

import pytest

from batchgen.job.input.hosts import host_name, host_of
from batchgen.job.job import Job, defaults
from batchgen.job.meaning import differences
from batchgen.render.capabilities import Capabilities
from batchgen.render.model_files import load_model
from batchgen.render.renderer import Renderer
from tests.support.jobs import fields, refusal
from tests.support.rendering import error_of, make_job, one

HOSTED = Capabilities("messages", reads_model=False, counts_tokens=True)
DOT = "data:image/png;base64,iVBORw0KGgo="
NOWHERE = "the job allows no hosts (input.image_hosts) and no folder (input.image_folder)"


def shown(url: str, *hosts: str) -> tuple[str, str] | None:
    """The error of a row with an image for an endpoint, None where there is none."""
    source = {"path": "in.jsonl", "messages": "messages", "image_hosts": list(hosts)}
    job = make_job(input=source, engine={"kind": "openai"}, model={"source": "gpt"})
    messages = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]
    prompt = one(Renderer(job, load_model(job.model, hosted=True), HOSTED), messages=messages)
    if prompt.error is not None:
        return error_of(prompt)
    assert json.loads(bytes(prompt.token_ids)) == messages
    return None


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org",
        "http://example.org/cat.png",
        "HTTPS://EXAMPLE.ORG/Cat.png?a=b@c&d=%20#e",
        "https://example.org:8443/cat.png",
        "https://example.org./cat.png",
        "https://a.example.net/",
        "https://b.a.EXAMPLE.net/",
        "https://bücher.example/",
        "https://xn--bcher-kva.example/",
        DOT,
    ],
)
def test_an_image_of_a_host_that_the_job_names_is_one(url: str) -> None:
    assert shown(url, "Example.org", "*.example.net", "BÜCHER.example") is None


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.org/cat.png",
        "https://evil.org/example.org",
        "https://evil.org?example.org",
        "https://example.org.evil.org/",
        "https://notexample.org/",
        "https://sub.example.org/",
        "https://example.net/",
        "https://notexample.net/",
        "https://.example.net/",
        "https://example.org@evil.org/",
        "https://example.org:80@evil.org/",
        "https://user:secret@example.org/",
        "https://@example.org/",
        "https://evil.org\\@example.org/",
        "https://example.org\\.evil.org/",
        "https://example.org/\\evil.org",
        "https:\\\\example.org/",
        "https://evil.org#@example.org/",
        "https://example.org%2eevil.org/",
        "https://%65xample.org/",
        "https://example.org\t.evil.org/",
        "https://exam\nple.org/",
        "ht\ttps://example.org/",
        " https://example.org/",
        "https://example.org/ ",
        "https://example.org/a b",
        "https://example.org/\x00",
        "https://example.org/\x7f",
        "https://example.org/\u2028",
        "https://example.org:/",
        "https://example.org:http/",
        "https://example.org:123456/",
        "https://example.org..",
        "https://example.org\u3002evil.org/",
        "https://ｅxample.org/",
        "https://exam\u00adple.org/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://127.0.0.1/",
        "https://2130706433/",
        "https://0x7f.1/",
        "https://0x7f000001/",
        "https://",
        "https:///example.org/",
        "https:example.org/",
        "//example.org/cat.png",
        "/cat.png",
        "cat.png",
        "example.org/cat.png",
        "",
        "file:///etc/passwd",
        "file://example.org/etc/passwd",
        "ftp://example.org/cat.png",
        "gopher://example.org/",
        "javascript://example.org/",
        "blob:https://example.org/",
        "data:text/html;base64,AA==",
        "data:image/png,AA",
        "https://" + "a" * 300 + ".example.net/",
    ],
)
def test_everything_else_is_an_error_of_the_row(url: str) -> None:
    code, detail = shown(url, "example.org", "*.example.net") or ("", "")
    assert code == "input"
    assert detail.startswith("in.jsonl:1: image 1: ")
    assert shown(url) == (
        "input",
        "in.jsonl:1: image 1: only images in the row itself are read (data:image/...;base64,...); " + NOWHERE,
    )


def test_the_error_says_what_is_wrong() -> None:
    assert shown("https://evil.org/", "example.org") == (
        "input",
        "in.jsonl:1: image 1: host evil.org is not in input.image_hosts",
    )
    assert shown("file:///etc/passwd", "example.org") == (
        "input",
        "in.jsonl:1: image 1: neither a data URL of an image nor a plain http(s) URL of a host by name",
    )


@pytest.mark.parametrize(
    "name", ["faß.example", "a\u200db.example", "Ｅ.example", "a_-.example", "-a.example", "a..b", "", ".", "1.2"]
)
def test_what_two_parsers_may_take_for_two_hosts_is_no_name(name: str) -> None:
    assert host_name(name) is None
    assert host_of(f"https://{name}/") is None


@pytest.mark.parametrize(
    "host", ["*", "", "https://example.org", "example.org/a", "example.org:80", "a.*.org", "10.0.0.1", "[::1]"]
)
def test_a_host_that_is_no_name_is_a_mistake_of_the_job(host: str) -> None:
    assert f"input.image_hosts: {host!r} is no host by name" in refusal(fields(input={"image_hosts": [host]}))


def test_the_hosts_are_part_of_the_meaning_and_their_order_is_not() -> None:
    def meaning(*hosts: str) -> dict[str, Any]:
        return Job.parse(fields(input={"image_hosts": list(hosts)})).meaning()

    older = {name: value for name, value in meaning().items() if name != "input.image_hosts"}
    assert differences(older, meaning(), defaults()) == {}
    assert meaning("a.org", "B.org") == meaning("b.org", "a.org", "a.org.")
    assert differences(older, meaning("a.org"), defaults()) == {"input.image_hosts": ([], ["a.org"])}

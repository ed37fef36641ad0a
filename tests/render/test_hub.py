"""model/hub.py: what the Hub's errors mean. The errors are those of its client, made of responses."""

from __future__ import annotations

import httpx
import pytest
from huggingface_hub import errors

from batchgen.errors import ModelError
from batchgen.job.model import Model
from batchgen.render.model.hub import of_hub
from batchgen.render.model_files import load_model

REQUEST = httpx.Request("GET", "https://huggingface.co/api/models/a/b")


def answered(kind: type[errors.HfHubHTTPError], status: int) -> errors.HfHubHTTPError:
    return kind(f"{status}", response=httpx.Response(status, request=REQUEST))


@pytest.mark.parametrize(
    ("error", "cause", "remedy"),
    [
        (answered(errors.GatedRepoError, 403), "it is gated", "accept its terms on its page there, and set HF_TOKEN"),
        (answered(errors.RepositoryNotFoundError, 401), "none of this name, or a private one", "check the name; a private one"),
        (answered(errors.RevisionNotFoundError, 404), "no such revision", "check the revision"),
        (answered(errors.HfHubHTTPError, 401), "the Hub answered", "check HF_TOKEN"),
        (answered(errors.HfHubHTTPError, 503), "the Hub answered", "try again later"),
        (errors.OfflineModeIsEnabled("offline"), "cannot be reached", "check the network"),
        (errors.LocalEntryNotFoundError("no"), "cannot be reached", "check the network"),
        (httpx.ConnectError("no route"), "cannot be reached", "check the network"),
        (OSError(28, "No space left on device"), "failed: [Errno 28] No space left", "check the disk"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_the_remedy_fits_the_error(error: Exception, cause: str, remedy: str) -> None:
    words = of_hub(error)
    assert cause in words[0]
    assert words[1].startswith(remedy)
    assert "HF_TOKEN" not in words[1] or "HF_TOKEN" in remedy or "private" in remedy


def test_a_machine_without_a_network_is_not_told_of_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match="the Hub cannot be reached, and the cache does not have it") as caught:
        load_model(Model(source="nobody/nothing-here"))
    assert "HF_TOKEN" not in str(caught.value)


def test_a_model_that_is_not_needed_is_not_asked_for() -> None:
    assert load_model(Model(source="nobody/nothing-here", adapters={"a": "/none"}), needed=False) == load_model(None)

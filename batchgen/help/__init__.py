"""Help topics: the Markdown files beside this one, printed by `batchgen help TOPIC`."""

import difflib
import re
from importlib import resources

from batchgen.errors import UsageError

_MARK = re.compile(r"^<!-- .* -->\n", re.MULTILINE)


def topics() -> dict[str, str]:
    """Name -> title of every topic, by name. A file begins with `# name: title`."""
    files = [file for file in resources.files(__name__).iterdir() if file.name.endswith(".md")]
    heads = (file.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ").partition(": ") for file in files)
    return dict(sorted((name, title) for name, _, title in heads))


def topic(name: str) -> str:
    """The Markdown text of a topic, without the marks of generated blocks. Raises UsageError that names the nearest topic."""
    if name not in (known := topics()):
        near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"topics are {', '.join(known)}"
        raise UsageError(f"help {name}: no such topic", hint)
    return _MARK.sub("", resources.files(__name__).joinpath(f"{name}.md").read_text(encoding="utf-8"))


def index() -> str:
    """The list of topics, a line each."""
    known = topics()
    width = max(map(len, known))
    return "\n".join(f"{name:<{width}}  {title}" for name, title in known.items())

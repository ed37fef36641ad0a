"""README.md of an output: the dataset card, by which `datasets.load_dataset` and the Hub's viewer find its rows."""

from batchgen.errors import printable, scrubbed
from batchgen.job.job import Job
from batchgen.output import parts
from batchgen.output.format import MARK
from batchgen.output.store import Store

NAME = "README.md"
_TEXT = """---
configs:
- config_name: default
  data_files: {data}/*.parquet
---

# {name}

One row for each prompt, variant and sample of a job of batchgen {version}. `status` is `ok` or `error`; {answer}.
A row that was run again is there once for each attempt: the last `attempt` counts.

```python
import datasets

answers = datasets.load_dataset("PATH-OR-NAME-OF-THIS-FOLDER", split="train")
```
"""

_ANSWERS = {
    "embed": "`embedding` is the vector of the text",
    "classify": "`label` is the class of the text, `probabilities` are those of all classes",
    "score": "`score` says how well the document fits the prompt",
    "rerank": "`scores` say how well each document fits the prompt, in the order of the documents",
    "reward": "`score` is the reward",
}


def write(store: Store, job: Job) -> None:
    """Put the card, unless there is a README.md: the user's own, or an earlier run's."""
    answer = _ANSWERS.get(job.task, "`response` is the answer")
    text = _TEXT.format(data=parts.DATA, name=job.name, version=MARK["version"], answer=answer)
    store.put_new(NAME, scrubbed(printable(text)).encode())

"""The tasks, by the name that the job's `task` gives: what is asked of the model for a prompt."""

from batchgen.registry import Registry
from batchgen.tasks.base import TaskKind

TASKS: Registry[TaskKind] = Registry("task", "batchgen.tasks", {"generate": "batchgen.tasks.generate:Generation"})

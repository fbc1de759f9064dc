"""Text-to-text tasks: what they are, where they come from, how they are scored, and how they become tokens.

| module | one idea |
|---|---|
| `task` | an example, a task with its three splits, and what its answers say about it (closed label set, likely metric) |
| `folder` | tasks from tab-separated CrossFit-style folders |
| `crossfit` | facts of the public benchmark: metric of each of the 160 tasks, the splits of the paper |
| `metrics` | the seven metrics and the chance score |
| `batches` | text to token ids, batches of one length each, drawn from a seed |
"""

from deltas.tasks.batches import Encoded, Reading, Segment, encode, evaluation_batches, schedule
from deltas.tasks.folder import load_tasks
from deltas.tasks.metrics import METRICS, chance
from deltas.tasks.task import Example, Task, closed_answers, likely_metric

__all__ = [
    "METRICS",
    "Encoded",
    "Example",
    "Reading",
    "Segment",
    "Task",
    "chance",
    "closed_answers",
    "encode",
    "evaluation_batches",
    "likely_metric",
    "load_tasks",
    "schedule",
]

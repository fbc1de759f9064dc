"""Stage 3: a point of the subspace decoded by every delta type and scored, with no training, beside its controls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deltas import Reading, Task
from deltas.backbones import Backbone
from deltas.evaluation import Exam, Score, evaluate_each
from deltas.functional import Attached
from deltas.tasks import chance
from subspace.base import Subspace
from subspace.optimize import attach_to


@dataclass(frozen=True)
class TransferTable:
    """The score of one z by every type, and what the same task scores without it.

    `scores[label]` is the score of decode(label, z); `controls["mean_only"][label]` that of z = 0, `controls["zero_shot"]` that of the
    backbone alone and `controls["chance"]` that of always giving the training split's most frequent answer.
    """

    task: str
    metric: str
    scores: Mapping[str, float]
    controls: Mapping[str, Any]

    def __str__(self) -> str:
        lines = [f"{self.task} ({self.metric})"]
        lines += [f"  {label:<10} {score:.3f}   mean_only {self.controls['mean_only'][label]:.3f}" for label, score in self.scores.items()]
        return "\n".join([*lines, f"  zero_shot  {self.controls['zero_shot']:.3f}", f"  chance     {self.controls['chance']:.3f}"])


def decode_and_score(space: Subspace, attached: Attached, codes: np.ndarray, exams: Sequence[Exam],
                     in_flight: int | None = None) -> list[Score]:
    """The score of each code z [M, k], decoded by the attached type, on its own exam."""
    return evaluate_each(attached, space.decode(attached.label, np.asarray(codes, np.float32)), exams, in_flight=in_flight)


def zero_shot(attached: Attached, exam: Exam) -> Score:
    """The backbone alone: a delta that is the identity at θ0 would do, but not every type has one, so it runs detached."""
    return evaluate_each(bare(attached), np.zeros((1, 0), np.float32), [exam])[0]


def bare(attached: Attached) -> Attached:
    """The backbone of `attached` with nothing on it, under the same interface: D = 0."""
    from dataclasses import replace

    from flax import nnx

    from deltas.layout import Layout

    graphdef, frozen = nnx.split(attached.backbone.module)
    return replace(attached, layout=Layout((), ()), theta0=np.zeros(0, np.float32), graphdef=graphdef, frozen=frozen, paths=())


def transfer(space: Subspace, backbone: Backbone, task: Task, z: np.ndarray, *, split: str = "test", reading: Reading | None = None,
             rows: int | None = None) -> TransferTable:
    """Score z by every type of the subspace.

    Example:
        table = subspace.transfer(space, backbone, task, found.z)

    Source: Yi et al. 2022, section 3 (subspace solution transfer).
    """
    reading = reading or Reading()
    exam = Exam.of(backbone, task, split, reading, rows)
    scores, means, attached = {}, {}, None
    for label in space.labels:
        attached = attach_to(space, backbone, label)
        at_z, at_0 = decode_and_score(space, attached, np.stack([z, np.zeros_like(z)]), [exam] * 2)
        scores[label], means[label] = at_z.score, at_0.score
    assert attached is not None  # a subspace has at least one type
    controls = {"mean_only": means, "zero_shot": zero_shot(attached, exam).score, "chance": chance(task, split)}
    return TransferTable(task.name, task.metric, scores, controls)

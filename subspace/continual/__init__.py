"""Continual learning: classes arrive step by step, no row of an earlier step is kept, and all classes seen have to be told apart (LAE, Gao et
al., ICCV 2023, arXiv 2303.10070). Any delta type, any backbone.

    sequence       classes of any classification tasks, in a seeded order, cut into steps; their rows as tokens
    head           class scores z = h W + b from pooled hidden states
    learning       learning: a delta and the head on one step; accumulation: θ_off ← β θ_off + (1 − β) θ_on at every update
    ensemble       p = max(softmax z_on, softmax z_off), class by class
    course         a whole sequence, in θ or in the codes z of a shared subspace
    metrics        accuracy by step and group of classes, last and average accuracy, forgetting

Calibration, the third of LAE's means, is a matter of the delta type: `deltas.CalibratedLoRA`, `deltas.CalibratedPrefix`.
"""

from subspace.continual.course import Course, Plan, Taught, in_codes, in_theta, part_for, teach
from subspace.continual.ensemble import ensemble
from subspace.continual.head import Head, features, scores
from subspace.continual.learning import Learning, accumulate, cross_entropy
from subspace.continual.metrics import accuracies, average, by_step, forgetting, last
from subspace.continual.sequence import ClassRows, Sequence, in_order, named_classes, rows_of

__all__ = [
    "ClassRows", "Course", "Head", "Learning", "Plan", "Sequence", "Taught", "accumulate", "accuracies", "average", "by_step", "cross_entropy",
    "ensemble", "features", "forgetting", "in_codes", "in_order", "in_theta", "last", "named_classes", "part_for", "rows_of", "scores", "teach",
]

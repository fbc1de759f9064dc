"""The published facts agree with their published counts."""

from collections import Counter

from deltas.tasks import METRICS
from deltas.tasks.crossfit import SINGLE_TASK_PAIRS, TASK_METRICS, TRAIN_60, UNSEEN_9


def test_counts_of_the_metric_table():
    counts = Counter(TASK_METRICS.values())
    assert counts == {"classification_f1": 51, "accuracy": 51, "exact_match": 28, "rouge_l": 17, "qa_f1": 9, "pearson": 3, "matthews": 1}
    assert set(counts) == set(METRICS)


def test_splits_are_disjoint_and_known():
    assert len(set(TRAIN_60)) == 60
    assert len(set(UNSEEN_9)) == 9
    assert not set(TRAIN_60) & set(UNSEEN_9)
    pairs = {name for source, targets in SINGLE_TASK_PAIRS.items() for name in (source, *targets)}
    assert {*TRAIN_60, *UNSEEN_9, *pairs} <= set(TASK_METRICS)

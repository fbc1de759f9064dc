"""Tasks: splits, fingerprint, what the answers say."""

import dataclasses
from typing import Any

import pytest

from deltas.errors import InputError
from deltas.tasks import Example, Task, closed_answers, likely_metric


def rows(*answers: str) -> tuple[Example, ...]:
    return tuple(Example(f"text {i}", (answer,)) for i, answer in enumerate(answers))


def task(**changes) -> Task:
    fields: dict[str, Any] = {
        "name": "t", "train": rows("yes", "no"), "dev": rows("yes"), "test": rows("no"), "metric": "accuracy", "labels": ("no", "yes"),
    }
    return Task(**(fields | changes))


def test_splits_by_name():
    assert task().split("dev") == rows("yes")
    with pytest.raises(InputError, match="train, dev, test"):
        task().split("validation")


def test_fingerprint_follows_the_content_and_nothing_else():
    base = task()
    assert base.fingerprint == task().fingerprint == dataclasses.replace(base, category="other").fingerprint
    assert len(base.fingerprint) == 16
    changed = [
        task(name="u"), task(metric="matthews"), task(labels=None), task(train=rows("no", "yes")), task(dev=rows("no")),
        task(test=(Example("text 0", ("no", "never")),)), task(train=rows("yes"), dev=rows("no", "yes")),
    ]
    assert len({base.fingerprint, *(t.fingerprint for t in changed)}) == 1 + len(changed)


@pytest.mark.parametrize(("changes", "message"), [
    ({"dev": ()}, "dev split of task t"),
    ({"metric": "acuracy"}, "'accuracy'"),
    ({"labels": ("no",)}, "'yes'"),
])
def test_refusals(changes, message):
    with pytest.raises(InputError, match=message):
        task(**changes)


def test_closed_answers():
    train = rows(*["b", "a"] * 5)
    assert closed_answers(train, rows("a")) == ("a", "b")
    assert closed_answers(train, rows("c")) is None
    assert closed_answers(train[:9], rows("a")) is None  # each label 4.5 times
    assert closed_answers((*train, Example("x", ("a", "b"))), ()) is None
    many = rows(*[str(i) for i in range(21)] * 5)
    assert closed_answers(many, ()) is None
    assert closed_answers(many, (), most=None) == tuple(sorted(str(i) for i in range(21)))


def test_likely_metric():
    assert likely_metric(rows("a"), ("a",)) == "accuracy"
    assert likely_metric(rows("a short answer"), None) == "exact_match"
    assert likely_metric(rows("word " * 13), None) == "rouge_l"

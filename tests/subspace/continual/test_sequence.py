"""Classes in a seeded order, none of them twice, and their rows."""

import numpy as np
import pytest
import toy

import deltas
from subspace.continual import Sequence, in_order, named_classes, rows_of

OTHER = toy.make_task("other", tuple((f"{w} {w}", "yes" if i % 2 else "left") for i, w in enumerate(toy.WORDS[:40])), "accuracy",
                      ("left", "yes"), 10)
TASKS = [toy.classify(), OTHER]
NAMES = ["left", "no", "has_ba:yes", "other:yes"]


def test_classes_are_named_by_their_task_where_two_share_a_word():
    classes = named_classes(TASKS)
    assert sorted(classes) == sorted(NAMES)
    assert classes["other:yes"] == (OTHER, "yes")
    counts = {label: [e.answers[0] for e in OTHER.train].count(label) for label in ("left", "yes")}
    assert set(counts.values()) == {10}
    assert [[e.answers[0] for e in TASKS[0].train].count(label) for label in ("no", "yes")] == [12, 8]
    assert list(named_classes(TASKS, 9)) == ["no", "left", "yes"]  # the other "yes" is too rare, and this one need not be told from it


def test_bad_classes(refused):
    with refused("'other'", "twice", "two steps"):
        named_classes([OTHER, *TASKS])
    with refused("always_maybe", "free text"):
        named_classes([toy.constant()])
    with refused("at least two classes of 99", "0"):
        named_classes(TASKS, 99)


def test_an_order_is_a_matter_of_the_seed():
    sequence = in_order(NAMES, 2, 0)
    assert [len(step) for step in sequence.steps] == [2, 2]
    assert sorted(sequence.classes) == sorted(NAMES)
    assert in_order(NAMES, 2, 0) == sequence
    assert len({in_order(NAMES, 2, seed) for seed in range(10)}) > 3


@pytest.mark.parametrize(("count", "per_step", "sizes"), [(7, 3, [3, 4]), (8, 3, [3, 3, 2]), (3, 4, [3]), (3, 1, [1, 1, 1]), (5, 2, [2, 3])])
def test_a_class_that_is_left_alone_joins_the_step_before(count, per_step, sizes):
    assert [len(step) for step in in_order([str(i) for i in range(count)], per_step, 1).steps] == sizes


def test_which_classes_are_of_a_step_and_which_are_seen():
    sequence = Sequence((("a", "b"), ("c",), ("d", "e")))
    assert sequence.of(1).tolist() == [False, False, True, False, False]
    assert sequence.seen(1).tolist() == [True, True, True, False, False]
    assert sequence.step_of.tolist() == [0, 0, 1, 2, 2]


@pytest.mark.parametrize(("steps", "words"), [
    ((("a", "b"), ("c", "a")), ("'a'", "steps 1 and 2")), ((("a", "a"),), ("'a'", "in step 1")), ((("a",), ()), ("[1, 0]",)), ((), ("[]",))])
def test_a_class_in_two_steps_is_refused(steps, words, refused):
    with refused(*words):
        Sequence(steps)


def test_rows(backbone, refused):
    classes, reading = named_classes(TASKS), deltas.Reading(max_input=16)
    sequence = in_order(list(classes), 2, 3)
    rows = rows_of(backbone, classes, sequence, "train", reading, most=4, seed=1)
    assert rows.ids.shape == (16, 16)  # padded to the most there can be, whatever the texts
    assert rows.classes.tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
    assert (rows.mask.sum(1) == rows.lengths).all()
    number = sequence.classes.index("left")
    of = rows.where(np.arange(4) == number)
    said = {backbone.tokenizer.decode(rows.ids[i][: rows.lengths[i]], skip_special_tokens=True).strip() for i in of}
    assert len(said) == 4
    assert said <= {e.input for e in OTHER.train if e.answers[0] == "left"}
    others = rows_of(backbone, classes, sequence, "train", reading, most=4, seed=2)
    assert not np.array_equal(others.ids, rows.ids)
    with refused("'nobody'"):
        rows_of(backbone, classes, Sequence((("nobody",),)), "train", reading)
    unseen = toy.make_task("unseen", tuple((w, "a" if i < 20 else "b") for i, w in enumerate(toy.WORDS[:40])), "accuracy", ("a", "b"), 10)
    with refused("test rows", "'a'"):
        rows_of(backbone, named_classes([unseen, OTHER]), Sequence((("a",),)), "test", reading)

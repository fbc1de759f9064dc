"""Metrics: laws that all share, then the cases in which each differs."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltas.errors import InputError
from deltas.tasks import METRICS, Example, Task, chance

LABELS = st.sampled_from(["yes", "no", "maybe"])
BY_ROW = ("accuracy", "exact_match", "qa_f1", "rouge_l")


@pytest.mark.parametrize("name", METRICS)
def test_right_answers_score_one(name):
    references = [["1"], ["2"], ["2"], ["5"]]
    assert METRICS[name]([r[0] for r in references], references) == pytest.approx(1)


@pytest.mark.parametrize("name", sorted(set(METRICS) - {"pearson"}))
@given(rows=st.lists(st.tuples(LABELS, LABELS), min_size=1, max_size=8))
def test_order_case_and_blanks_do_not_matter(name, rows):
    predictions, references = [p for p, _ in rows], [[r] for _, r in rows]
    score = METRICS[name](predictions, references)
    assert -1 <= score <= 1
    assert METRICS[name]([f" {p.upper()} " for p in predictions], references) == pytest.approx(score)
    assert METRICS[name](predictions[::-1], references[::-1]) == pytest.approx(score)


@pytest.mark.parametrize("name", BY_ROW)
def test_the_best_reference_counts(name):
    assert METRICS[name](["blue sky"], [["green", "blue sky"]]) == 1
    assert METRICS[name](["red"], [["green", "blue sky"]]) == 0


@pytest.mark.parametrize("name", ["classification_f1", "matthews"])
def test_any_reference_is_right_for_classes(name):
    assert METRICS[name](["b", "c"], [["a", "b"], ["c"]]) == pytest.approx(1)


def test_accuracy_keeps_what_squad_drops():
    assert METRICS["accuracy"](["the cat."], [["cat"]]) == 0
    assert METRICS["exact_match"](["The  cat."], [["cat"]]) == 1


@pytest.mark.parametrize("name", ["exact_match", "qa_f1"])
def test_answers_of_nothing_but_articles_and_signs_are_told_apart(name):
    assert METRICS[name](["> }", "a"], [["> }"], ["a"]]) == 1
    assert METRICS[name](["> )", "the", ""], [["> }"], ["a"], ["> }"]]) == pytest.approx(1 / 6 if name == "qa_f1" else 0)


def test_qa_f1_counts_common_words():
    assert METRICS["qa_f1"](["the red red fox"], [["red fox ran"]]) == pytest.approx(2 * 2 / (3 + 3))


def test_rouge_l_follows_the_order_in_any_script():
    assert METRICS["rouge_l"](["a b c"], [["a c b"]]) == pytest.approx(2 / 3)
    assert METRICS["rouge_l"](["кот спит"], [["кот спит"]]) == 1
    assert METRICS["rouge_l"](["grün"], [["grau"]]) == 0  # rouge-score's own splitting would share "gr"
    assert METRICS["rouge_l"]([""], [["a"]]) == 0


def test_rouge_l_agrees_with_the_original_splitting_on_english():
    from rouge_score.rouge_scorer import RougeScorer

    prediction, reference = "The quick, brown fox; it jumped over 3 dogs!", "A quick-brown fox jumped over the dogs."
    original = RougeScorer(["rougeL"]).score(reference, prediction)["rougeL"].fmeasure
    assert METRICS["rouge_l"]([prediction], [[reference]]) == pytest.approx(original)


def test_classification_f1_averages_over_reference_labels_only():
    # yes: precision 1, recall 1/2 → 2/3; no: 1. The stray "perhaps" is a miss, not a third class.
    assert METRICS["classification_f1"](["yes", "perhaps", "no"], [["yes"], ["yes"], ["no"]]) == pytest.approx((2 / 3 + 1) / 2)


def test_matthews():
    references = [["a"], ["a"], ["b"], ["b"]]
    assert METRICS["matthews"](["b", "b", "a", "a"], references) == pytest.approx(-1)
    assert METRICS["matthews"](["a"] * 4, references) == 0
    assert METRICS["matthews"](["x", "y", "z", ""], references) == 0
    assert METRICS["matthews"](["a", "a", "b", "x"], references) < 1


def test_pearson():
    references = [["1"], ["2"], ["3"]]
    assert METRICS["pearson"](["-1", "-2", " -3.0 "], references) == pytest.approx(-1)
    assert METRICS["pearson"](["2", "2", "2"], references) == 0
    assert METRICS["pearson"](["many", "nan", "inf"], references) == 0
    assert METRICS["pearson"](["none", "1", "2"], references) == pytest.approx(1)  # "none" counts as 0.0
    with pytest.raises(InputError, match="'many'"):
        METRICS["pearson"](["1"], [["many"]])


def test_chance_is_the_training_majority():
    def rows(*answers):
        return tuple(Example("x", (a,)) for a in answers)

    task = Task(name="t", train=rows("b", "b", "a"), dev=rows("a"), test=rows("b", "a", "a", "a"), metric="accuracy")
    assert chance(task, "dev") == 0
    assert chance(task, "test") == 0.25


def test_a_task_takes_another_metric_that_its_answers_have(refused):
    rows = (Example("x", ("a",)), Example("y", ("b",)))
    task = Task(name="t", train=rows, dev=rows, test=rows, metric="accuracy", labels=("a", "b"))
    assert task.scored_by(None) is task
    assert task.scored_by("matthews").metric == "matthews"
    assert task.scored_by("matthews").fingerprint != task.fingerprint
    with refused("among", "'matthew'"):
        task.scored_by("matthew")
    with refused("numbers", "'a'"):
        task.scored_by("pearson")
    with refused("classification_f1", "free text"):
        dataclasses.replace(task, labels=None).scored_by("classification_f1")

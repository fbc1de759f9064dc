"""Scores of many deltas at once."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from deltas import Reading, evaluate
from deltas.evaluation import Exam, batch_of, evaluate_each, tokens_of
from deltas.parallel import flight
from deltas.tasks import METRICS, Example

READING = Reading(max_input=24, max_target=4, buckets=(8,))


@pytest.fixture(scope="module")
def one(attached):
    return attached["lora"]


@pytest.fixture(scope="module")
def thetas(one):
    return one.theta0 + 0.5 * np.random.default_rng(0).standard_normal((3, one.layout.size)).astype(np.float32)


@pytest.fixture(scope="module")
def exams(backbone, small_tasks):
    """Of different lengths, row numbers and metrics."""
    return [Exam.of(backbone, task, "test", READING, rows) for task, rows in zip(small_tasks, (8, 7, 4), strict=True)]


@pytest.fixture(scope="module")
def together(one, thetas, exams):
    return evaluate_each(one, thetas, exams, in_flight=3)


def same(ours, theirs):
    assert ours.predictions == theirs.predictions
    assert ours.score == theirs.score
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-5)


@pytest.fixture(scope="module")
def losses(one):
    return jax.jit(one.token_losses)


def test_different_exams_at_once_are_each_alone(one, thetas, exams, together):
    """Whatever is in flight, and however many rows are read at once."""
    assert len({score.loss for score in together}) == 3
    for m, (exam, score) in enumerate(zip(exams, together, strict=True)):
        assert len(score.predictions) == len(exam.examples)
        same(evaluate_each(one, thetas[m : m + 1], [exam], in_flight=1, rows_at_once=4)[0], score)


@pytest.mark.slow
def test_a_last_flight_that_is_not_full(one, thetas, exams, together):
    told = []
    for ours, theirs in zip(evaluate_each(one, thetas, exams, in_flight=2, on_progress=told.append), together, strict=True):
        same(ours, theirs)
    size = flight(2)  # the devices may want more
    assert told == [len(exams[first : first + size]) for first in range(0, len(exams), size)]


def test_predictions_and_losses_by_hand(one, thetas, exams, together, losses):
    """Greedy tokens as words, and the mean cross-entropy of the target tokens."""
    exam, score, theta = exams[2], together[2], jnp.asarray(thetas[2])
    batch = {n: jnp.asarray(v) for n, v in batch_of(exam.encoded, np.arange(4), 24, 4).items()}
    sums = losses(theta, one.frozen, batch)
    assert score.loss == pytest.approx(float(sums.sum()) / exam.encoded.target_lengths.sum(), rel=1e-5)
    tokens = np.asarray(jax.jit(one.generate, static_argnums=3)(theta, one.frozen, batch, 4)).tolist()
    words = [row[: row.index(1)] if 1 in row else row for row in tokens]
    assert score.predictions == tuple(" ".join(toy.VOCABULARY[t] for t in row if t > 2) for row in words)


def test_the_score_is_the_tasks_metric(exams, together, small_tasks):
    for exam, score, task in zip(exams, together, small_tasks, strict=True):
        assert score.score == METRICS[task.metric](score.predictions, [e.answers for e in exam.examples])


def test_a_perfect_lookup_scores_one(one, thetas, small_tasks, together):
    """References that are what the model says: the round trip of words → tokens → words is without loss."""
    task, said = small_tasks[1], together[1].predictions
    test = tuple(Example(e.input, ("never", answer)) for e, answer in zip(task.test, said, strict=False))
    knowing = dataclasses.replace(task, test=test)
    score = evaluate(one, thetas[[1, 1, 1]], knowing, "test", reading=READING, in_flight=3)[1]
    assert score.predictions == said
    assert score.score == 1.0


def test_the_score_of_given_answers(backbone, small_tasks):
    exam = Exam.of(backbone, small_tasks[0], "test", Reading())
    losses = np.stack([np.arange(10.0), np.full(10, 2.0)], axis=1)
    right = exam.score(backbone, exam.encoded.target_ids, losses)
    assert (right.score, right.loss) == (1.0, 45 / 20)
    assert right.predictions == tuple(e.answers[0] for e in exam.examples)
    words = {"yes": "no", "no": "yes"}
    wrong = [Example(e.input, (words[e.answers[0]],)) for e in exam.examples]
    flipped = tokens_of(backbone, wrong, "t", Reading()).target_ids
    assert exam.score(backbone, flipped, losses).score == 0.0
    half = np.where(np.arange(10)[:, None] < 5, exam.encoded.target_ids, flipped)
    assert exam.score(backbone, half, losses).score == 0.5


def test_ranking_is_the_likeliest_label(one, thetas, backbone, small_tasks, together, losses, refused):
    """Every prediction is a label, the one with the highest log p by hand; the loss is that of generating."""
    task, reading = small_tasks[0], dataclasses.replace(READING, decode="rank")
    labelled = dataclasses.replace(small_tasks[2], labels=("maybe", "maybe yes", "no"))
    ranks = [Exam.of(backbone, t, "test", reading, rows) for t, rows in ((task, 8), (labelled, 4))]  # two labels, then three, one of two words
    ranked = evaluate_each(one, thetas[[0, 2]], ranks, in_flight=2)
    assert ranked[0].loss == pytest.approx(together[0].loss, rel=1e-5)
    for exam, score, theta in zip(ranks, ranked, thetas[[0, 2]], strict=True):
        labels = exam.task.labels
        assert labels is not None
        rows = np.arange(4)
        logp = []
        for label in labels:
            as_targets = tokens_of(backbone, [Example(e.input, (label,)) for e in exam.examples], "t", READING)
            given = {n: jnp.asarray(v) for n, v in batch_of(as_targets, rows, 24, 4).items()}
            logp.append(-np.asarray(losses(jnp.asarray(theta), one.frozen, given)).sum(-1))
        assert score.predictions[:4] == tuple(labels[i] for i in np.argmax(logp, axis=0))
    with refused("rank", small_tasks[1].name):
        Exam.of(backbone, small_tasks[1], "test", reading)


def test_auto_ranks_where_there_are_labels(one, thetas, backbone, small_tasks, exams, together):
    """Exams of both ways in one call, each as it is alone, in the order they came in."""
    ranking, auto = (dataclasses.replace(READING, decode=way) for way in ("rank", "auto"))
    ranked = Exam.of(backbone, small_tasks[0], "test", ranking, 8)
    mixed = [Exam.of(backbone, task, "test", auto, len(exam.examples)) for task, exam in zip(small_tasks, exams, strict=True)]
    assert [exam.labels is None for exam in mixed] == [task.labels is None for task in small_tasks] == [False, True, True]
    told = []
    found = evaluate_each(one, thetas[[1, 0, 2]], [mixed[1], mixed[0], mixed[2]], in_flight=3, on_progress=told.append)
    same(found[1], evaluate_each(one, thetas[:1], [ranked], in_flight=1)[0])
    assert set(found[1].predictions) <= set(small_tasks[0].labels)
    assert sum(told) == 3
    for at, exam in ((0, 1), (2, 2)):
        same(found[at], evaluate_each(one, thetas[exam : exam + 1], [exams[exam]], in_flight=1)[0])


def test_batches_are_cut_and_padded(backbone, small_tasks):
    exam = Exam.of(backbone, small_tasks[2], "test", Reading())
    rows = np.array([[3, 1], [0, 2]])
    batch = batch_of(exam.encoded, rows, 64, 8, np.array([[True, True], [True, False]]))
    assert {n: v.shape for n, v in batch.items()} == {"input_ids": (2, 2, 64), "attention_mask": (2, 2, 64), "target_ids": (2, 2, 8),
                                                      "target_mask": (2, 2, 8)}
    np.testing.assert_array_equal(batch["attention_mask"].sum(-1), exam.encoded.input_lengths[rows])
    assert batch["target_mask"].sum(-1).tolist() == [[2, 2], [2, 0]]
    assert (batch["input_ids"][batch["attention_mask"] == 0] == 0).all()


def test_what_opens_an_input_opens_the_answer_of_an_encoder_decoder(backbone, small_tasks):
    """BART reads and writes <s> before a text; a decoder's answer only continues."""
    opened = dataclasses.replace(backbone, before=(2,))
    plain, found = (tokens_of(one, small_tasks[0].train[:3], "t", Reading(max_input=24, max_target=8)) for one in (backbone, opened))
    for ours, theirs, length in ((found.input_ids, plain.input_ids, plain.input_lengths[0]),
                                 (found.target_ids, plain.target_ids, plain.target_lengths[0])):
        assert ours[0, 0] == 2
        np.testing.assert_array_equal(ours[0, 1 : length + 1], theirs[0, :length])

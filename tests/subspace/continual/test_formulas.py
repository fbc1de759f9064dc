"""LAE's formulas and what courses are judged by, against values computed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from subspace.continual import Head, Learning, accumulate, accuracies, average, by_step, cross_entropy, ensemble, forgetting, last, scores

SEEN = jnp.asarray([True, True, True, False])


def test_the_local_loss_leaves_other_classes_alone():
    z, labels = jnp.asarray([[1.0, 2.0, 0.5, 9.0], [0.0, -1.0, 3.0, 9.0]]), jnp.asarray([1, 2])
    local = jnp.asarray([False, True, True, False])
    by_hand = -np.mean([np.log(np.exp(2) / (np.exp(2) + np.exp(0.5))), np.log(np.exp(3) / (np.exp(-1) + np.exp(3)))])
    value, gradient = jax.value_and_grad(cross_entropy)(z, labels, local)
    assert value == pytest.approx(by_hand, rel=1e-6)
    assert (np.asarray(gradient)[:, [0, 3]] == 0).all()  # exactly
    assert gradient[0, 2] == pytest.approx(np.exp(0.5) / (np.exp(2) + np.exp(0.5)) / 2, rel=1e-5)
    head = Head(jnp.ones((3, 4)), jnp.zeros(4))
    h = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3)), jnp.float32)
    of_head = jax.grad(lambda head: cross_entropy(scores(head, h), labels, local))(head)
    assert (np.asarray(of_head.weight)[:, [0, 3]] == 0).all()
    assert (np.asarray(of_head.weight)[:, [1, 2]] != 0).all()


def test_the_ordinary_loss_is_over_all_seen():
    z = jnp.asarray([[1.0, 2.0, 0.5, 9.0]])
    value, gradient = jax.value_and_grad(cross_entropy)(z, jnp.asarray([1]), SEEN)
    assert value == pytest.approx(-np.log(np.exp(2) / (np.exp(1) + np.exp(2) + np.exp(0.5))), rel=1e-6)
    assert gradient[0, 0] > 0
    assert gradient[0, 3] == 0


def test_the_accumulation_is_an_exponential_mean_for_each_decay():
    offline, decay = jnp.asarray([[1.0, 2.0]] * 3), jnp.asarray([0.9, 0.0, 1.0])
    for online in ([3.0, 0.0], [5.0, 4.0]):
        offline = accumulate(offline, jnp.asarray(online), decay)
    np.testing.assert_allclose(offline, [[0.81 + 0.09 * 3 + 0.1 * 5, 0.81 * 2 + 0.1 * 4], [5, 4], [1, 2]], rtol=1e-6)


def test_the_ensemble_is_the_larger_probability_of_each_class():
    online, offline = jnp.asarray([[2.0, 0.0, 1.0, 99.0]]), jnp.asarray([[0.0, 3.0, 1.0, 99.0]])
    p, q = (np.exp(z) / np.exp(z).sum() for z in (np.array([2.0, 0, 1]), np.array([0.0, 3, 1])))
    found = np.asarray(ensemble(online, offline, SEEN))
    np.testing.assert_allclose(found[0, :3], np.maximum(p, q), rtol=1e-5)
    assert found[0, 3] == 0  # a class that has not arrived is never the answer
    assert found.argmax() == 1  # the surer of the two decides
    np.testing.assert_allclose(ensemble(online, online, SEEN)[0, :3], p, rtol=1e-5)


def test_what_a_course_is_judged_by():
    step_of_row = np.array([0, 0, 1, 1, 1, 1, 2, 2])
    right = np.array([[1, 1, 0, 0, 0, 0, 0, 0], [1, 0, 1, 1, 1, 0, 1, 1], [0, 0, 1, 1, 0, 0, 1, 1]], bool)
    table, counts = accuracies(right, step_of_row), np.array([2, 4, 2])
    np.testing.assert_array_equal(table, [[1, np.nan, np.nan], [0.5, 0.75, np.nan], [0, 0.5, 1]])
    np.testing.assert_allclose(by_step(table, counts), [1, 4 / 6, 4 / 8])
    assert last(table, counts) == 0.5
    assert average(table, counts) == pytest.approx((1 + 4 / 6 + 0.5) / 3)
    assert forgetting(table) == pytest.approx(((1 - 0) + (0.75 - 0.5)) / 2)
    assert forgetting(table[:1, :1]) == 0.0
    assert forgetting(np.array([[0.5, np.nan], [0.75, 1.0]])) == -0.25  # known better than before


@pytest.mark.parametrize(("settings", "words"), [
    ({"steps": 0}, ("steps", "0")), ({"rate": 0.0}, ("rate", "0.0")), ({"frozen": 1.5}, ("frozen share", "1.5")), ({"decay": -1.0}, ("decay",)),
    ({"others": (2.0,)}, ("decay", "2.0"))])
def test_bad_learning(settings, words, refused):
    with refused(*words):
        Learning(**settings)

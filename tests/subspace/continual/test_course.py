"""A sequence learned step by step on a toy: what stays exactly as it was, what follows, and that it learns."""

import jax.numpy as jnp
import numpy as np
import pytest
import toy

import deltas
import subspace
from subspace.base import Part
from subspace.continual import Learning, Plan, Sequence, in_codes, in_theta, named_classes, rows_of, teach
from subspace.continual.course import _order
from subspace.continual.head import Head
from subspace.continual.learning import State, learner

READING = deltas.Reading(max_input=8)
LEARNING = Learning(steps=4, batch_size=4, rate=0.02, head_rate=0.05, frozen=0.5, decay=0.5, others=(1.0,))


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """A BERT of one layer with LAE's LoRA, four classes told by their first word, two steps."""
    backbone = deltas.load_backbone(toy.write_folder(tmp_path_factory.mktemp("bert"), "bert", num_hidden_layers=1))
    rows = tuple((f"{toy.WORDS[i % 4]} {toy.WORDS[10 + i % 30]}", toy.WORDS[40 + i % 4]) for i in range(80))
    task = toy.make_task("words", rows, "accuracy", tuple(toy.WORDS[40:44]), 20)
    classes = named_classes([task])
    sequence = Sequence((tuple(toy.WORDS[40:42]), tuple(toy.WORDS[42:44])))
    train, test = (rows_of(backbone, classes, sequence, split, READING, most=most) for split, most in (("train", 8), ("test", 3)))
    return deltas.Attached.of(backbone, deltas.CalibratedLoRA(rank=2)), sequence, train, test


@pytest.fixture(scope="module")
def taught(setting):
    attached, sequence, train, test = setting
    return teach(in_theta(attached), sequence, train, test, LEARNING, Plan(), follow=(0.5, 1.0))


def one_step(setting, first, labels=(2, 3), decay=(0.5, 1.0)):
    """The state before and after four updates on the classes 2 and 3."""
    attached, sequence, train, _ = setting
    rows = _order(train, train.where(np.isin(np.arange(4), labels)), 4, 4, 0)
    start = jnp.asarray(attached.theta0)
    before = State(start, jnp.stack([start + 1] * 2), Head(jnp.full((16, 4), 0.1), jnp.zeros(4)))
    program = learner(attached, in_theta(attached).decode, 1.0)
    after, losses = program(before, attached.frozen, None, train.ids[rows], train.mask[rows], train.classes[rows], jnp.asarray(sequence.of(1)),
                            jnp.int32(first), jnp.asarray([0.02, 0.05]), jnp.asarray(decay))
    return before, after, np.asarray(losses)


def test_local_learning_keeps_the_heads_of_earlier_classes(setting):
    before, after, losses = one_step(setting, 0)
    np.testing.assert_array_equal(after.head.weight[:, :2], before.head.weight[:, :2])
    np.testing.assert_array_equal(after.head.bias[:2], 0)
    assert (np.asarray(after.head.weight[:, 2:]) != 0.1).all()
    assert losses[-1] < losses[0]
    assert not np.array_equal(after.online, before.online)


def test_the_offline_delta_follows_at_every_update_even_of_a_frozen_one(setting):
    before, after, _ = one_step(setting, 4)
    np.testing.assert_array_equal(after.online, before.online)  # frozen throughout
    np.testing.assert_allclose(after.offline[0], np.asarray(before.online) + 0.5**4, rtol=1e-5)  # β⁴ of the distance of 1 is left
    np.testing.assert_array_equal(after.offline[1], before.offline[1])
    moved = one_step(setting, 3)[1]  # by the last update alone
    expected = 0.5 * (np.asarray(before.online) + 0.5**3) + 0.5 * np.asarray(moved.online)
    np.testing.assert_allclose(moved.offline[0], expected, rtol=1e-4, atol=1e-6)
    assert not np.array_equal(moved.online, before.online)


def test_after_the_first_step_both_deltas_are_one(setting, taught):
    _, sequence, _, test = setting
    assert taught.online.shape == (2, 12, 4)
    np.testing.assert_array_equal(taught.online[0], taught.offline[0.5][0])
    assert not np.array_equal(taught.online[1], taught.offline[0.5][1])
    assert not np.array_equal(taught.offline[1.0][1], taught.offline[0.5][1])
    assert (taught.online[0][test.where(~sequence.seen(0))] == 0).all()  # rows of later classes are not looked at
    assert taught.losses.shape == (2, 4)
    seen = np.stack([sequence.seen(0), sequence.seen(1)])
    assert set(np.unique(taught.answers(seen)[0])) <= {0, 1}
    alone = taught.answers(seen, 0.5, alone=True)
    np.testing.assert_array_equal(alone[1], taught.offline[0.5][1].argmax(-1))
    np.testing.assert_array_equal(taught.answers(seen)[1], taught.online[1].argmax(-1))


def test_a_course_follows_from_its_seed(setting, taught):
    attached, sequence, train, test = setting
    again = teach(in_theta(attached), sequence, train, test, LEARNING, Plan(), follow=(0.5,))
    np.testing.assert_array_equal(again.online, taught.online)
    other = teach(in_theta(attached), sequence, train, test, LEARNING, Plan(), seed=1)
    assert not np.array_equal(other.online, taught.online)
    assert other.offline == {}


def test_all_at_once_learns_the_classes(setting):
    attached, sequence, train, test = setting
    told = []
    longer = Learning(steps=20, batch_size=4, rate=0.02, head_rate=0.05)
    joint = teach(in_theta(attached), sequence, train, test, longer, Plan(loss="all", freezing="never", together=True), on_progress=told.append)
    assert joint.online.shape == (1, 12, 4)
    assert sum(told) == 40  # as many updates as step by step
    assert np.mean(joint.answers(np.ones((1, 4), bool))[0] == test.classes) > 0.7
    head = teach(in_theta(attached), sequence, train, test, longer, Plan(loss="all", freezing="always", together=True))
    assert joint.losses[0, -1] < head.losses[0, -1]


def test_inside_a_subspace_the_code_is_all_that_moves(setting, refused):
    attached, sequence, train, test = setting
    rng, size = np.random.default_rng(0), attached.layout.size
    part = Part(config=attached.config, layout=attached.layout, theta0=attached.theta0, mean=rng.normal(0, 0.1, size).astype(np.float32),
                basis=rng.normal(0, 0.1, (3, size)).astype(np.float32), theta0_fingerprint="")
    space = subspace.Subspace(method="joint_svd", backbone=attached.backbone.fingerprint, pairs=(), codes=np.zeros((1, 3), np.float32),
                              parts={attached.label: part})
    course = in_codes(attached, space)
    z = jnp.asarray([1.0, 0.0, -2.0])
    np.testing.assert_allclose(course.decode(z, course.constants), part.offset + part.basis[0] - 2 * part.basis[2], rtol=1e-4, atol=1e-5)
    drawn = in_codes(attached, space, random=0).constants[1]
    assert np.linalg.norm(drawn) == pytest.approx(np.linalg.norm(part.basis), rel=1e-5)
    assert not np.allclose(drawn, part.basis)
    found = teach(course, sequence, train, test, LEARNING, Plan(), follow=(0.5,))
    still = teach(course, sequence, train, test, LEARNING, Plan(freezing="always"), follow=(0.5,))
    np.testing.assert_allclose(still.online[1], still.offline[0.5][1], atol=1e-6)  # z stayed 0
    assert not np.allclose(found.online[1], found.offline[0.5][1], atol=1e-6)
    with refused("subspace of CalibratedLoRA(", "rank=2"):
        in_codes(deltas.Attached.of(attached.backbone, deltas.CalibratedLoRA(rank=1)), space)
    with refused("backbone"):
        in_codes(attached, subspace.Subspace(method="joint_svd", backbone="another", pairs=(), codes=np.zeros((1, 3), np.float32), parts={}))

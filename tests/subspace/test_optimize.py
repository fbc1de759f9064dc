"""Stage 2 on a real backbone: what is found does not depend on how z is stored while it is tuned; several types share one z."""

import importlib
from collections import Counter
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_spaces import READING, SHORT, random_space

import subspace
from deltas import Task, evaluate
from deltas.tasks import Example
from deltas.tuning import Job
from subspace.few_shot import few_shot
from subspace.optimize import attach_all, constants_of, optimize_many
from subspace.several import Several, within_each

BOTH = ("lora", "adapter")


@pytest.fixture(scope="module")
def space(tmp_path_factory, attached):
    """Two directions of five random solutions of two types."""
    return random_space(tmp_path_factory.mktemp("bank"), [attached[label] for label in BOTH])


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_padding_of_z_changes_nothing(space, attached, small_tasks, monkeypatch, optimizer):
    training = replace(SHORT, optimizer=optimizer)
    jobs, found = [Job(small_tasks[0], seed) for seed in (0, 1)], []
    for width in (1, 32):
        monkeypatch.setattr(importlib.import_module("subspace.optimize"), "WIDTH", width)
        found.append(optimize_many(space, attached["lora"], jobs, training=training, reading=READING, test_rows=8))
    for bare, padded in zip(*found, strict=True):
        assert padded.z.shape == (2,)
        np.testing.assert_allclose(padded.z, bare.z, atol=1e-5)
        assert (padded.score, padded.dev, padded.step) == (bare.score, bare.dev, bare.step)
        assert np.abs(padded.z).max() > 0.1  # it moved


def test_a_type_that_the_subspace_lacks_is_refused(space, backbone, small_tasks, refused):
    with refused("lora", "'prefix'"):
        subspace.optimize(space, backbone, small_tasks[0], "prefix")
    with refused("once", "lora"):
        subspace.optimize(space, backbone, small_tasks[0], ("lora", "lora"))
    with refused("got none"):
        subspace.optimize(space, backbone, small_tasks[0], ())


def test_a_space_of_unknown_backbone_has_to_fit_by_its_parameters(space, backbone, refused):
    nameless = replace(space, backbone="")
    assert attach_all(nameless, backbone, "lora").layout == space.part("lora").layout
    other = replace(space.part("lora"), layout=space.part("adapter").layout)
    with refused("lora", backbone.name):
        attach_all(replace(nameless, parts={"lora": other}), backbone, "lora")


def test_the_gradient_through_several_types_is_the_mean_of_theirs(space, backbone, batch):
    both, z = attach_all(space, backbone, BOTH), jnp.array([0.3, -0.2])
    assert isinstance(both, Several)
    constants = tuple(constants_of(space, label) for label in BOTH)
    joint, slope = jax.jit(jax.value_and_grad(lambda v: both.loss(within_each(v, constants), both.frozen, batch)))(z)
    each = [jax.jit(jax.value_and_grad(lambda v, m=m, c=c: m.loss(c[0] + v @ c[1], m.frozen, batch)))(z)
            for m, c in zip(both.members, constants, strict=True)]
    np.testing.assert_allclose(joint, np.mean([loss for loss, _ in each]), rtol=1e-5)
    np.testing.assert_allclose(slope, np.mean([g for _, g in each], axis=0), rtol=1e-4, atol=1e-6)


def test_through_two_types_at_once(space, backbone, small_tasks):
    task = small_tasks[2]
    found = subspace.optimize(space, backbone, task, BOTH, training=SHORT, reading=READING, test_rows=8)
    assert found.through == "lora+adapter"
    assert found.forward == 2 * 6 * 4
    for member in attach_all(space, backbone, BOTH).members:
        theta = space.decode(member.label, found.z)[None]
        after, dev = (evaluate(member, theta, task, split, reading=READING, rows=8)[0] for split in ("test", "dev"))
        assert found.scores[member.label] == after.score
        found.history.append({"step": -1, "dev_loss": dev.loss})
    *looks, a, b = found.history
    kept = next(look for look in looks if look["step"] == found.step)
    np.testing.assert_allclose(kept["dev_loss"], (a["dev_loss"] + b["dev_loss"]) / 2, rtol=1e-4)
    assert found.score == np.mean(list(found.scores.values()))
    assert looks[-1]["train_loss"] < looks[0]["train_loss"]


def labelled(rows):
    examples = tuple(Example(f"text {n}", ("rare" if n % 10 == 0 else "common",)) for n in range(rows))
    return Task(name="labelled", train=examples, dev=examples[::-1], test=examples, metric="accuracy", labels=("common", "rare"))


def test_few_shots_have_every_label_and_only_append():
    task = labelled(50)
    small, large = few_shot(task, 6, seed=1), few_shot(task, 12, seed=1)
    assert Counter(e.answers[0] for e in small.train) == {"rare": 3, "common": 3}
    assert Counter(e.answers[0] for e in large.train) == {"rare": 5, "common": 7}
    assert large.train[:6] == small.train
    assert few_shot(task, 6, seed=2).train != small.train
    assert (small.dev, small.test) == (task.dev, task.test)
    assert len(few_shot(task, 6, dev=True).dev) == 6
    assert sorted(e.input for e in few_shot(task, 99).train) == sorted(e.input for e in task.train)


def test_few_shots_are_what_is_trained_on(space, backbone, small_tasks, refused):
    task = small_tasks[0]
    found = subspace.optimize(space, backbone, task, "lora", shots=4, few_dev=True, training=SHORT, reading=READING, test_rows=8)
    same = subspace.optimize(space, backbone, few_shot(task, 4, dev=True), "lora", training=SHORT, reading=READING, test_rows=8)
    np.testing.assert_array_equal(found.z, same.z)
    assert found.history == same.history
    with refused("got 0"):
        few_shot(task, 0)
    with refused("few_dev"):
        subspace.optimize(space, backbone, task, "lora", few_dev=True)

"""Several types in one solution: which combinations there are, that parts join without loss, and that what is frozen stays."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
import toy

import deltas
from deltas.combining import Moving, joined, orders, put, scaled, subsets
from deltas.functional import Attached
from deltas.tuning import Job, Training, tune
from deltas.types import Together

TYPES = (deltas.BitFit(), deltas.Adapter(bottleneck=2))


@pytest.fixture(scope="module")
def parts(backbone):
    return {one.label: Attached.of(backbone, Together(parts=(one,), label=one.label)) for one in TYPES}


@pytest.fixture(scope="module")
def both(backbone, parts):
    return joined(backbone, [parts["bitfit"], parts["adapter"]])


def far(attached, seed=0):
    return attached.theta0 + 0.3 * np.random.default_rng(seed).standard_normal(attached.layout.size).astype(np.float32)


def solved(attached, theta):
    return deltas.Solution(task="t", seed=0, config=attached.config, layout=attached.layout, vector=theta - attached.theta0,
                           theta0=attached.theta0, backbone=attached.backbone.fingerprint, theta0_fingerprint=attached.theta0_fingerprint)


def test_subsets_and_orders():
    assert subsets("ab") == [(), ("a",), ("b",), ("a", "b")]
    assert len(subsets("abc")) == 8
    assert orders("abc")[:2] == [("a", "b"), ("a", "c")]
    assert len(orders("abc")) == 12
    made = [(one,) for one in "abc"] + orders("abc")
    assert all(order[:-1] in made[:n] for n, order in enumerate(made) if len(order) > 1)  # what an order begins with is there before it


def test_joined_keeps_every_start_and_put_every_number(parts, both):
    start = both.layout.unflatten(jnp.asarray(both.theta0))
    for label in ("bitfit", "adapter"):
        own = parts[label].layout.unflatten(jnp.asarray(parts[label].theta0))
        assert all(np.array_equal(start[name], value) for name, value in own.items())
    assert both.label == "bitfit-adapter"
    theta = put(both.layout, [(parts[label].layout, far(parts[label])) for label in ("adapter", "bitfit")])
    back = both.layout.unflatten(theta)
    assert all(np.array_equal(back[name], value) for name, value in parts["adapter"].layout.unflatten(far(parts["adapter"])).items())


def test_in_turn_is_what_carrying_gives(backbone, parts, batch):
    """The second type on a backbone that carries the first is the two joined, the first first."""
    first, second = parts["adapter"], parts["bitfit"]
    whole = joined(backbone, [first, second])
    carried = deltas.carrying(backbone, solved(first, far(first, 1)))
    alone = Attached.of(carried, second.config, theta0=second.theta0)
    theta = put(whole.layout, [(first.layout, far(first, 1)), (second.layout, far(second, 2))])
    given = {name: jnp.asarray(value) for name, value in batch.items()}
    np.testing.assert_allclose(whole.logits(theta, whole.frozen, given), alone.logits(jnp.asarray(far(second, 2)), alone.frozen, given),
                               rtol=2e-4, atol=2e-5)


def test_a_part_of_rate_zero_stays_and_the_others_move_at_their_rates(parts, both):
    task, at = toy.classify(), both.layout
    training = Training(steps=2, batch_size=4, learning_rate=1e-2, evaluate_every=2, dev_rows=4, warmup=0, schedule="constant", segment=2)

    def moved(**rates):
        rate = put(at, [(parts[label].layout, np.full(parts[label].layout.size, value)) for label, value in rates.items()])
        moving = Moving(jnp.asarray(far(both)), rate)
        outcome = next(iter(tune(both, [Job(task, 0)], np.zeros((1, at.size), np.float32), training, deltas.Reading(max_input=8, max_target=4),
                                 decode=scaled, constants=moving, in_flight=1)))[0]
        change = np.asarray(scaled(jnp.asarray(outcome.vector), moving)) - far(both)
        of = at.unflatten(jnp.asarray(change))
        return {label: np.concatenate([np.abs(value).ravel() for name, value in of.items() if f".{label}." in name])
                for label in ("bitfit", "adapter")}

    in_turn, together = moved(bitfit=0.0, adapter=1.0), moved(bitfit=0.5, adapter=2.0)
    assert (in_turn["bitfit"] == 0).all()
    assert in_turn["adapter"].max() == pytest.approx(2e-2, rel=0.1)  # two steps of Adam at 1e-2
    assert together["bitfit"].max() == pytest.approx(1e-2, rel=0.1)
    assert together["adapter"].max() == pytest.approx(4e-2, rel=0.1)


def test_bad_parts(backbone, parts, both, refused):
    with refused("at least one part"):
        joined(backbone, [])
    with refused("together", "adapter"):
        joined(backbone, [replace(parts["adapter"], config=deltas.Adapter(bottleneck=2))])
    with refused("layout", "adapter"):
        put(both.layout, [(parts["bitfit"].layout, parts["bitfit"].theta0)])

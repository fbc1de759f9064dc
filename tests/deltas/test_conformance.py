"""Every delta type on every family keeps the same laws: the cells of the support table, each by one compiled program."""

import functools
import json
import re
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from deltaspace.support import CELLS, FAMILIES, REFUSED, ROWS
from flax import nnx
from one_layer import backbone_of, batch_for, compiled

from deltas import Attached, Delta, merge
from deltas.attach import detach, parameter_name, sites
from deltas.backbones import loading
from deltas.layout import Layout
from deltas.types import TYPES
from deltas.types.adapter import VARIANTS
from deltas.verbalizer import label_scores

STEPS = 3
OPTIMIZER = optax.adamw(3e-3)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What one program tells of a type on a family, at θ0 and at a random θ."""

    label: str
    family: str
    one: Attached
    thetas: np.ndarray
    losses: np.ndarray
    """Of both at once, before and after each step of training: [2, STEPS + 1]."""
    gradients: np.ndarray
    """Of both at once, before training: [2, D]."""
    alone: np.ndarray
    """The losses before training, one after the other: [2]."""
    rounded: np.ndarray
    """The loss at the random θ on the backbone in bfloat16."""


def run(label: str, family: str) -> Cell:
    config, batch = ROWS[label].config, batch_for(family)
    one = Attached.of(backbone_of(family), config)
    half = Attached.of(backbone_of(family, "bfloat16"), config, theta0=one.theta0)
    loss = jax.jit(one.loss)  # traced once for all that follows

    def program(thetas, frozen, half_frozen, batch):
        def step(carry, _):
            thetas, state = carry
            losses, gradients = jax.vmap(jax.value_and_grad(loss), (0, None, None))(thetas, frozen, batch)
            updates, state = OPTIMIZER.update(gradients, state, thetas)
            return (thetas + updates, state), (losses, gradients)

        losses, gradients = jax.lax.scan(step, (thetas, OPTIMIZER.init(thetas)), length=STEPS + 1)[1]
        alone = jax.lax.map(lambda theta: loss(theta, frozen, batch), thetas)
        return losses.T, gradients[0], alone, half.loss(thetas[1], half_frozen, batch)

    noise = 0.3 * np.random.default_rng(1).standard_normal(one.layout.size)
    thetas = np.stack([one.theta0, one.theta0 + noise]).astype(np.float32)
    args = thetas, one.frozen, half.frozen, batch
    losses, gradients, alone, rounded = map(np.asarray, compiled(program, *args)(*args))
    return Cell(label=label, family=family, one=one, thetas=thetas, losses=losses, gradients=gradients, alone=alone, rounded=rounded)


def diagonal() -> list[tuple[str, str]]:
    """Every row once and every column at least twice, BitFit where biases are missing: the fast sibling of the whole table."""
    found = []
    for number, label in enumerate(ROWS):
        possible = [family for family in FAMILIES if (label, family) in CELLS]
        found.append((label, possible[(number + 2) % len(possible)]))
    return found


FAST = diagonal()


@pytest.fixture(scope="module", ids="-".join, params=[pytest.param(it, marks=() if it in FAST else pytest.mark.slow) for it in CELLS])
def cell(request):
    return run(*request.param)


def loss_of(module, batch) -> float:
    """The mean cross-entropy of a module's answers, as it stands."""
    graphdef, state = nnx.split(module)

    def loss(state, batch):
        module, ids, mask, targets = nnx.merge(graphdef, state), batch["input_ids"], batch["attention_mask"], batch["target_ids"]
        if module.config.kind == "encoder":
            scores = label_scores(module, batch)[:, None]
        else:
            read = jnp.concatenate([module.first(ids, mask)[:, None], targets[:, :-1]], axis=1)
            scores = module.decode(read, module.encode(ids, mask), mask)
        right = jnp.sum(jax.nn.log_softmax(scores) * jax.nn.one_hot(targets, scores.shape[-1]), axis=-1)
        return -jnp.sum(right * batch["target_mask"]) / jnp.sum(batch["target_mask"])

    return float(compiled(loss, state, batch)(state, batch))


@functools.cache
def own_loss(family: str) -> float:
    """The backbone's, without any delta."""
    return loss_of(backbone_of(family).module, batch_for(family))


# ------------------------------------------------------------------ the laws
def test_theta0_is_the_backbone_where_the_maths_says_so(cell):
    away = abs(float(cell.alone[0]) - own_loss(cell.family))
    assert away < 1e-5 if ROWS[cell.label].identity else away > 1e-4


def test_training_lowers_the_loss(cell):
    """From θ0 and from a random θ."""
    assert np.isfinite(cell.losses).all()
    assert (cell.losses[:, -1] < cell.losses[:, 0]).all()


def test_the_gradient_reaches_every_parameter(cell):
    """And every number of it, but for the rows of tables that no token reads."""
    gradient = cell.one.layout.unflatten(cell.gradients[1])
    least = 1e-6 * np.abs(cell.gradients[1]).max()
    assert {name for name, value in gradient.items() if np.abs(value).max() < least} == without_effect(cell)
    unread = {name for name, value in gradient.items() if (value == 0).any()} - without_effect(cell)
    assert all(name.endswith("table") or (name.endswith("rows") and backbone_of(cell.family).config.window) for name in unread), unread


def without_effect(cell: Cell) -> set[str]:
    """A bias of the keys adds one number to all scores of a query, which softmax does not see, unless keys turn with their positions or
    rows without that bias stand beside them."""
    if backbone_of(cell.family).config.positions == "rotary":
        return set()
    biases = {name: match[1] for name in cell.one.layout.names if (match := re.fullmatch(r"(.*)\.k\.(tensor\.)?bias", name))}
    prefixed = {name.removesuffix(".keys").removesuffix(".prefix") for name in cell.one.layout.names if name.endswith(".keys")}
    return {name for name, attention in biases.items() if attention not in prefixed}


def test_the_flat_vector_is_the_parameters(cell):
    """There and back bit for bit, through the layout's JSON, and nothing that is trained is outside it."""
    layout, theta = cell.one.layout, cell.thetas[1]
    values = layout.unflatten(theta)
    np.testing.assert_array_equal(layout.flatten(values), theta)
    assert Layout.from_json(json.loads(json.dumps(layout.to_json()))) == layout
    module = cell.one.module(theta, cell.one.frozen)
    found = {parameter_name(path): leaf[...] for path, leaf in nnx.to_flat_state(nnx.state(module, Delta))}
    assert found.keys() == values.keys()
    assert all(np.array_equal(found[name], value) for name, value in values.items())


def test_detaching_restores_the_backbone_exactly(cell):
    bare = nnx.split(backbone_of(cell.family).module)
    module = cell.one.module(cell.thetas[1], cell.one.frozen)
    assert nnx.split(module)[0] != bare[0]
    detach(module, cell.label)
    graphdef, state = nnx.split(module)
    assert graphdef == bare[0]
    assert jax.tree.structure(state) == jax.tree.structure(bare[1])
    assert all(ours is theirs for ours, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(bare[1]), strict=True))


def test_two_solutions_at_once_are_each_one_alone(cell):
    np.testing.assert_allclose(cell.losses[:, 0], cell.alone, rtol=1e-5, atol=2e-6)
    assert abs(cell.alone[0] - cell.alone[1]) > 1e-5


def test_a_bfloat16_backbone_gives_the_same_loss_within_its_precision(cell):
    assert abs(cell.rounded - cell.alone[1]) < 0.03 * (1 + cell.alone[1])


# ------------------------------------------------------------------ on the diagonal alone
@pytest.mark.parametrize(("label", "family"), FAST, ids=map("-".join, FAST))
def test_hidden_states_stay_bfloat16(label, family):
    """Or a float32 delta would double the activations of a bfloat16 backbone."""
    half = Attached.of(backbone_of(family, "bfloat16"), ROWS[label].config)
    batch = batch_for(family)
    theta = jnp.asarray(half.theta0)
    hidden = jax.eval_shape(lambda theta: half.module(theta, half.frozen).encode(batch["input_ids"], batch["attention_mask"]), theta)
    floats = {leaf.dtype for leaf in jax.tree.leaves(hidden) if jnp.issubdtype(leaf.dtype, jnp.floating)}
    assert (theta.dtype, floats) == (jnp.float32, {jnp.dtype(jnp.bfloat16)})


@pytest.mark.parametrize(("label", "family"), FAST, ids=map("-".join, FAST))
def test_what_merges_and_what_does_not(label, family, refused):
    one, batch = Attached.of(backbone_of(family), ROWS[label].config), batch_for(family)
    theta = one.theta0 + 0.2 * np.random.default_rng(2).standard_normal(one.layout.size).astype(np.float32)
    module = one.module(theta, one.frozen)
    if not ROWS[label].merges:
        with refused("change of weights"):
            merge(module, label)
        return
    expected = loss_of(module, batch)
    assert abs(expected - own_loss(family)) > 1e-3
    merge(module, label)
    assert not any(site.order for site in sites(module).values())
    assert loss_of(module, batch) == pytest.approx(expected, rel=1e-5)


# ------------------------------------------------------------------ the table
@pytest.mark.parametrize(("label", "family"), REFUSED, ids=map("-".join, REFUSED))
def test_a_cell_that_cannot_be_is_refused_for_its_reason(label, family, refused):
    assert REFUSED[label, family] == "there is no cross-attention"
    assert not any(name.endswith("cross") for name in sites(backbone_of(family).module))
    with refused("'cross'", "matches none"):
        Attached.of(backbone_of(family), ROWS[label].config)


def test_the_table_has_every_type_and_every_family():
    assert {row.config.name for row in ROWS.values()} == set(TYPES)
    assert {row.config.variant for row in ROWS.values() if row.config.name == "adapter"} == set(VARIANTS)
    assert {(row.config.rslora, row.config.dora) for row in ROWS.values() if row.config.name == "lora"} >= {(False, True), (True, False)}
    assert {row.config.bottleneck is None for row in ROWS.values() if row.config.name == "prefix"} == {True, False}
    assert set(FAMILIES) == {*loading.FAMILIES, "headless"}
    assert {label for label, _ in FAST} == set(ROWS)
    assert {family for _, family in FAST} == set(FAMILIES)
    assert ("bitfit", "llama") in FAST
    assert len(CELLS) + len(REFUSED) == len(ROWS) * len(FAMILIES)

"""Several solutions on one backbone: carried, merged and unmerged, switched from call to call, mixed by row."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import deltas
from deltas.attach import attach, detach, merge, own, sites, unmerge
from deltas.functional import Attached

MERGEABLE = (deltas.LoRA(rank=2, sites=("q", "v", "ff.up")), deltas.LoRA(rank=2, dora=True, label="dora"), deltas.IA3(), deltas.BitFit(),
             deltas.Full(sites=("re:.*norm", "ff.out", "shared")))


def solution(backbone, config, seed=0, scale=0.3):
    """A solution far from its start."""
    attached = Attached.of(backbone, config)
    vector = scale * np.random.default_rng(seed).standard_normal(attached.layout.size).astype(np.float32)
    return deltas.Solution(task=f"t{seed}", seed=seed, config=config, layout=attached.layout, vector=vector, theta0=attached.theta0,
                           backbone=backbone.fingerprint, theta0_fingerprint=attached.theta0_fingerprint)


@pytest.fixture(scope="module")
def given(batch):
    return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"],
            "decoder_input_ids": np.pad(batch["target_ids"], ((0, 0), (1, 0)))[:, :-1]}


@pytest.fixture(scope="module")
def some(backbone):
    kinds = (deltas.LoRA(rank=2), deltas.Adapter(bottleneck=3), deltas.Prefix(length=3))
    return [solution(backbone, kind, seed) for seed, kind in enumerate(kinds)]


@pytest.mark.parametrize("config", MERGEABLE, ids=lambda c: c.label)
def test_merged_is_attached_and_unmerged_is_as_before(backbone, given, config):
    one = solution(backbone, config)
    expected = backbone.logits(given, one)
    assert float(jnp.abs(expected - backbone.logits(given)).max()) > 0.01
    whole = deltas.merged(backbone, one)
    assert all(not site.order for site in sites(whole.module).values())
    np.testing.assert_allclose(whole.logits(given), expected, atol=1e-5 * max(1.0, float(jnp.abs(expected).max())))
    before = {path: np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(nnx.state(backbone.module))}
    unmerge(whole.module, f"0-{one.label}")
    np.testing.assert_array_equal(whole.logits(given), deltas.carrying(backbone, one).logits(given))
    detach(whole.module, f"0-{one.label}")
    after = {path: np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(nnx.state(whole.module))}
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[path], after[path]) for path in before)


def test_two_merged_one_after_the_other(backbone, given):
    pair = [solution(backbone, deltas.LoRA(rank=2)), solution(backbone, deltas.IA3(sites=("v", "ff.out")), 1)]
    both, carried = deltas.merged(backbone, *pair), deltas.carrying(backbone, *pair)
    assert both.fingerprint == carried.fingerprint != backbone.fingerprint
    np.testing.assert_allclose(both.logits(given), carried.logits(given), atol=1e-4)
    assert float(jnp.abs(carried.logits(given) - deltas.carrying(backbone, *pair[::-1]).logits(given)).max()) > 1e-4  # the order counts


def test_what_cannot_be_merged_is_refused_and_left(backbone, some, given, refused):
    carried = deltas.carrying(backbone, some[2], some[0])
    expected = carried.logits(given)
    with refused("Rows"):
        merge(carried.module, "0-prefix")
    with refused("'lora'", "0-prefix"):
        merge(carried.module, "lora")
    with refused("merged"):
        unmerge(carried.module, "1-lora")
    np.testing.assert_array_equal(carried.logits(given), expected)


def test_weights_take_in_what_changes_them_first(backbone, given, refused):
    """(IA)³ on the input, then LoRA, which reads what it gives, then BitFit: merged from the last to the first."""
    three = [solution(backbone, kind, seed) for seed, kind in enumerate((
        deltas.IA3(sites=("q",), inputs=("q",)), deltas.LoRA(rank=2, sites=("q",)), deltas.BitFit(sites=("q",))))]
    carried = deltas.carrying(backbone, *three)
    expected = carried.logits(given)
    with refused("0-ia3", "1-lora"):
        merge(carried.module, "0-ia3")
    with refused("1-lora", "2-bitfit"):
        merge(carried.module, "1-lora")
    for name in ("2-bitfit", "1-lora", "0-ia3"):
        merge(carried.module, name)
        np.testing.assert_allclose(carried.logits(given), expected, atol=1e-4)
    for name in ("0-ia3", "1-lora", "2-bitfit"):
        unmerge(carried.module, name)
    np.testing.assert_array_equal(carried.logits(given), expected)
    assert {site.order for site in sites(carried.module).values()} == {(), ("0-ia3", "1-lora", "2-bitfit")}


def test_only_the_first_can_be_merged_and_only_the_last_unmerged(backbone, refused):
    one, two = solution(backbone, deltas.LoRA(rank=2, sites=("q",))), solution(backbone, deltas.IA3(sites=("q",), inputs=()), 1)
    module = own(backbone.module)
    attach(module, one, name="one")
    attach(module, two, name="two")
    with refused("two", "one before it"):
        merge(module, "two")
    merge(module, "one")
    with refused("'one'", "attached"):
        attach(module, one, name="one")
    merge(module, "two")
    with refused("one", "two"):
        unmerge(module, "one")
    unmerge(module, "two")
    unmerge(module, "one")
    assert all(site.order in ((), ("one", "two")) for site in sites(module).values())


def test_solutions_switch_from_call_to_call(backbone, some, given):
    plain = np.asarray(backbone.logits(given))
    first = [np.asarray(backbone.logits(given, one)) for one in some]
    again = [np.asarray(backbone.logits(given, one)) for one in reversed(some)][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    np.testing.assert_array_equal(backbone.logits(given), plain)


def test_each_row_of_a_batch_with_its_own(backbone, some, given):
    other = solution(backbone, deltas.LoRA(rank=2), seed=7)
    order = [some[0], None, other, some[2]]
    found = backbone.logits(given, order)
    for row, one in enumerate(order):
        np.testing.assert_allclose(found[row], backbone.logits(given, one)[row], atol=1e-5)


def test_what_is_trained_on_a_carrying_backbone_leaves_what_it_carries(backbone, some, given, small_tasks, tmp_path):
    """One after the other: the carried solution is frozen, and the new one belongs to the carrying backbone."""
    carried = deltas.carrying(backbone, some[1])
    expected = np.asarray(carried.logits(given))
    bank = deltas.train(carried, small_tasks[2:], [deltas.LoRA(rank=2)], out=tmp_path, test_rows=0,
                        training=deltas.Training(steps=2, batch_size=2, dev_rows=2), reading=deltas.Reading(max_input=24, max_target=4))
    new = bank.load("lora", small_tasks[2].name, 0)
    assert new.backbone == carried.fingerprint
    assert set(new.layout.names) == set(Attached.of(backbone, deltas.LoRA(rank=2)).layout.names)
    np.testing.assert_array_equal(carried.logits(given), expected)
    assert float(jnp.abs(carried.logits(given, new) - expected).max()) > 0


def test_refusals(backbone, some, given, refused, folder):
    with refused("4 rows", "got 1"):
        backbone.logits(given, [None])
    with refused("input_ids", "attention_mask"):
        backbone.logits({"input_ids": given["input_ids"]})
    other = deltas.carrying(backbone, some[0])
    with refused("backbone", other.fingerprint):
        deltas.carrying(other, some[1])


@pytest.mark.parametrize("kind", [deltas.LoRA(rank=2), deltas.Prefix(length=3), deltas.Adapter(bottleneck=3)], ids=lambda c: c.label)
def test_under_jax_checkpoint(backbone, attached, batch, kind):
    """Rematerialisation changes nothing: loss and gradient are those without."""
    one = Attached.of(backbone, kind)
    given = {name: jnp.asarray(value) for name, value in batch.items()}
    theta = jnp.asarray(one.theta0 + 0.1)
    plain = jax.jit(jax.value_and_grad(one.loss))(theta, one.frozen, given)
    again = jax.jit(jax.value_and_grad(jax.checkpoint(one.loss)))(theta, one.frozen, given)
    np.testing.assert_allclose(plain[0], again[0], rtol=1e-6)
    np.testing.assert_allclose(plain[1], again[1], atol=1e-6)
    assert float(jnp.abs(plain[1]).max()) > 0

"""Curvature of real deltas on a tiny T5, against Hessians formed whole, finite differences and laws of the chain rule."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_spaces import READING, random_space

from deltas.attach import sites
from deltas.errors import InputError
from deltas.evaluation import Exam, batch_of
from landscape import bending
from landscape.bending import Bending, Measures, bend, shared_directions, side_by_side
from landscape.curvature import matrix_of
from landscape.objective import Rows, in_theta, in_weights, in_z

KINDS = ("lora", "adapter")
FEW = Measures(top=2, krylov=12, probes=4, density_probes=1, density_steps=5, steps=3, draws=3, tolerance=0.05)


@pytest.fixture(scope="module")
def space(tmp_path_factory, attached):
    return random_space(tmp_path_factory.mktemp("bank"), [attached[label] for label in KINDS])


@pytest.fixture(scope="module")
def rows(backbone, small_tasks):
    """Twenty rows in batches of eight: the last is half empty."""
    found = Rows.of(backbone, small_tasks[1], "train", rows=20, reading=READING, at_once=8)
    assert (found.count, len(found.batches)) == (20, 3)
    return found


@pytest.fixture(scope="module")
def whole(backbone, small_tasks):
    """The same rows as one batch."""
    encoded = Exam.of(backbone, small_tasks[1], "train", READING, 20).encoded
    return {name: jnp.asarray(array) for name, array in batch_of(encoded, np.arange(20), 20, encoded.target_ids.shape[1]).items()}


@pytest.fixture(scope="module")
def points(attached):
    return {label: attached[label].theta0 + 0.2 * np.random.default_rng(1).standard_normal(attached[label].layout.size).astype(np.float32)
            for label in KINDS}


Z = np.float32([0.4, -0.7])


def test_z_is_the_whole_hessian_and_gauss_newton_matrix_of_all_rows(space, attached, rows, whole):
    lora, f = attached["lora"], in_z(space, attached["lora"], rows)

    def logits(z):
        return lora.logits(space.decode("lora", z), lora.frozen, whole)

    @jax.jit
    def everything(z):
        def loss(z):
            return lora.loss(space.decode("lora", z), lora.frozen, whole)

        return loss(z), jax.grad(loss)(z), jax.hessian(loss)(z), jax.nn.softmax(logits(z)), jax.jacfwd(logits)(z)

    wanted, slope, exact, p, j = (np.asarray(array, np.float64) for array in everything(jnp.asarray(Z)))
    value, gradient = f.slope(Z)
    np.testing.assert_allclose([value, f.value(Z)], wanted, rtol=1e-5)
    np.testing.assert_allclose(gradient, slope, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(matrix_of(f.hessian(Z), 2), exact, rtol=1e-3, atol=2e-5)
    # Σ over tokens of Jᵀ (diag p − p pᵀ) J
    mask, mean = np.asarray(whole["target_mask"]), np.einsum("btv,btvk->btk", p, j)
    inner = np.einsum("btv,btvk,btvl->btkl", p, j, j) - np.einsum("btk,btl->btkl", mean, mean)
    gauss = np.einsum("bt,btkl->kl", mask, inner) / mask.sum()
    np.testing.assert_allclose(matrix_of(f.gauss_newton(Z), 2), gauss, rtol=1e-3, atol=2e-5)
    found = bend(f, Z, FEW)
    values = sorted(np.linalg.eigvalsh(exact), key=lambda v: -abs(v))
    np.testing.assert_allclose(found.matrices["hessian"].eigen.values, values, rtol=1e-3, atol=1e-4)
    trace = found.matrices["gauss_newton"].trace
    assert trace.value == trace.low == trace.high == pytest.approx(np.trace(gauss), rel=1e-3)
    assert found.matrices["gauss_newton"].eigen.values.min() >= -1e-5


@pytest.mark.slow
def test_theta_against_finite_differences(attached, rows, points):
    f, x = in_theta(attached["lora"], rows), points["lora"]
    assert f.size > bending.WHOLE
    found = bend(f, x, FEW)
    top = found.matrices["hessian"].eigen
    for value, vector, error in zip(top.values, top.vectors, top.errors, strict=True):
        step = 1e-3
        ahead, behind = (f.slope(x + sign * step * vector)[1] for sign in (1, -1))
        turned = (ahead - behind) / (2 * step)
        assert vector @ turned == pytest.approx(value, rel=0.02, abs=0.01 * abs(top.values[0]))
        assert np.linalg.norm(turned - value * vector) <= error + 0.05 * abs(top.values[0])
    exact = matrix_of(f.hessian(x), f.size)  # by products again: those of the leading eigenvectors were just seen to be right
    np.testing.assert_allclose(top.values, sorted(np.linalg.eigvalsh(exact), key=lambda v: -abs(v))[:2], rtol=1e-3)
    trace, spread = found.matrices["hessian"].trace, found.matrices["hessian"].density
    assert trace.low <= np.trace(exact) <= trace.high
    assert spread is not None
    assert spread.moment(2) == pytest.approx(np.sum(exact**2) / f.size, rel=0.5)  # of one probe
    assert found.matrices["gauss_newton"].eigen.values.min() > 0
    assert found.loss == pytest.approx(f.value(x), rel=1e-6)
    assert found.worst is not None
    assert found.worst.radius == pytest.approx(0.05 * np.linalg.norm(x), rel=1e-5)
    assert f.value(x + found.worst.epsilon) - f.value(x) == pytest.approx(found.worst.value, abs=1e-4)
    assert found.worst.value >= found.average.value  # type: ignore[union-attr]


def test_weights_around_a_solution_follow_the_chain_rule(attached, rows, points):
    """With W + s A B in every place, ∂f/∂B = s Aᵀ ∂f/∂W and ∂f/∂A = s ∂f/∂W Bᵀ."""
    lora, x = attached["lora"], points["lora"]
    f = in_weights(lora, x, rows, sites=("encoder.0.attn.q",))
    value, gradient = f.slope(np.zeros(f.size))
    own, slope = in_theta(lora, rows).slope(x)
    assert value == pytest.approx(own, rel=1e-5)
    factors, slopes = lora.layout.unflatten(x), lora.layout.unflatten(slope)
    a, b = (np.asarray(factors[f"encoder.0.attn.q.{name}"]) for name in "ab")
    g, scale = gradient.reshape(a.shape[0], b.shape[1]), lora.config.alpha / lora.config.rank
    np.testing.assert_allclose(slopes["encoder.0.attn.q.b"], scale * a.T @ g, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(slopes["encoder.0.attn.q.a"], scale * g @ b.T, rtol=1e-3, atol=1e-6)
    found = bend(f, np.zeros(f.size), replace(FEW, of=("gauss_newton",), radius=0.0))
    assert (found.where, found.label, found.worst) == ("weights", "lora", None)
    assert found.slope == pytest.approx(np.linalg.norm(gradient), rel=1e-6)
    assert found.matrices["gauss_newton"].eigen.values[0] > 0
    # W itself is what a relative radius is a share of
    kernel = sites(lora.backbone.module)["encoder.0.attn.q"].plain()["kernel"]
    np.testing.assert_array_equal(np.ravel(kernel), f.origin)
    assert f.reach(np.zeros(f.size)) == pytest.approx(np.linalg.norm(kernel))


def test_weights_move_under_a_type_that_is_no_change_of_weights(attached, rows, points):
    adapter = attached["adapter"]
    f = in_weights(adapter, points["adapter"], rows, sites=("decoder.0.ff.out",))
    still = f.value(np.zeros(f.size))
    assert still == pytest.approx(in_theta(adapter, rows).value(points["adapter"]), rel=1e-5)
    assert abs(f.value(np.full(f.size, 0.1)) - still) > 1e-3


def test_types_side_by_side_at_one_z_and_on_disk(space, attached, rows, tmp_path):
    """The second "type" is the first with the axes of z exchanged, so that all its programs are there already."""
    told, one = [], in_z(space, attached["lora"], rows)
    assert one.constants is not None
    other = replace(one, label="adapter", constants=(one.constants[0], one.constants[1][::-1]))
    objectives = dict(zip(KINDS, (one, other), strict=True))
    found = side_by_side(objectives, dict.fromkeys(KINDS, Z), FEW, on_progress=lambda *state: told.append(state))
    assert list(found) == list(KINDS)
    for label in KINDS:
        counts = [done for own, done, _ in told if own == label]
        assert counts == sorted(counts)
        assert counts[-1] == told[-1][2]
    hessians = [found[label].matrices["hessian"].eigen for label in KINDS]
    at_swapped = bend(other, Z[::-1], replace(FEW, radius=0.0)).matrices["hessian"].eigen
    np.testing.assert_allclose(at_swapped.values, hessians[0].values, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(np.abs(at_swapped.vectors[:, ::-1]), np.abs(hessians[0].vectors), atol=1e-2)
    (row,) = shared_directions(found, count=1)
    u, w = (found[label].matrices["gauss_newton"].eigen.vectors[0] for label in KINDS)
    assert row["shared"] == pytest.approx((u @ w) ** 2)
    assert row["expected"] == 0.5
    assert shared_directions(found, count=2)[0]["shared"] == pytest.approx(1)
    density = found["lora"].matrices["hessian"].density
    assert density is not None
    found["lora"].save(tmp_path / "lora.safetensors")
    again = Bending.load(tmp_path / "lora.safetensors")
    assert json.dumps(again.to_json()) == json.dumps(found["lora"].to_json())
    np.testing.assert_array_equal(again.matrices["hessian"].eigen.vectors, found["lora"].matrices["hessian"].eigen.vectors)
    np.testing.assert_array_equal(again.worst.epsilon, found["lora"].worst.epsilon)  # type: ignore[union-attr]
    np.testing.assert_array_equal(again.matrices["hessian"].density.density, density.density)  # type: ignore[union-attr]


def test_refusals(space, attached, rows, backbone, small_tasks, tmp_path, refused):
    f = in_z(space, attached["lora"], rows)
    with refused("2 numbers in z", "(3,)"):
        f.value(np.zeros(3))
    with refused("finite loss", "lora"):
        bend(f, np.float32([np.nan, 0]))
    with refused("every type", "adapter"):
        side_by_side({"adapter": f}, {})
    with refused("in one z"):
        shared_directions({"lora": bend(f, Z, replace(FEW, radius=0.0)), "x": replace(bend(f, Z, replace(FEW, radius=0.0)), where="theta")})
    with refused("3 eigenvectors"):
        shared_directions({"lora": bend(f, Z, replace(FEW, radius=0.0))}, count=3)
    with refused("matches a site", "nowhere"):
        in_weights(attached["lora"], attached["lora"].theta0, rows, sites=("nowhere",))
    with pytest.raises(InputError, match="no file"):
        Bending.load(tmp_path / "none.safetensors")

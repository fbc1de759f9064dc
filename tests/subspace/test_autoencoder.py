"""The learned method: its loss against a plain one, its settings, its resume, and that it learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from subspace_fakes import attach, planted, texts

import deltas
import subspace
from deltas import Bank
from deltas.bank import Solution
from deltas.tasks import Reading
from subspace import Autoencoder, Subspace
from subspace.autoencoder import learn, whiten
from subspace.learning import objective, simplex

ONE = Reading(buckets=(12,))
SHORT = {"steps": 6, "batch_size": 4, "evaluate_every": 3, "segment": 3, "learning_rate": 1e-3}


def fit(bank, k=3, *, reading=ONE, pairs=None, labels=None, checkpoint=None, on_step=None, **settings):
    train, dev = texts(bank)
    return learn(bank, k, attached=attach(bank, labels), train=train, dev=dev, reading=reading, pairs=pairs,
                 settings=Autoencoder(**{**SHORT, **settings}), checkpoint=checkpoint, save_every=0.0, on_step=on_step)


@pytest.mark.parametrize("kind", ["dirichlet", "stick_breaking"])
@pytest.mark.parametrize("types", [1, 3])
def test_simplex(kind, types):
    weights = np.asarray(simplex(jax.random.key(0), kind, (20000,), types))
    assert weights.shape == (20000, types)
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-5)
    if types == 3:
        means = {"dirichlet": [1 / 3] * 3, "stick_breaking": [1 / 2, 1 / 4, 1 / 4]}[kind]
        np.testing.assert_allclose(weights.mean(0), means, atol=0.01)


@pytest.mark.parametrize("per_example", [True, False])
@pytest.mark.parametrize("reconstruction", ["norm", "mean_square"])
def test_the_objective_is_the_papers(bank, per_example, reconstruction):
    """Against the equations written out one example at a time."""
    rng, b, k, attached = np.random.default_rng(0), 5, 3, attach(bank)
    g = b if per_example else 1
    params = {t: {"w1": rng.standard_normal((k, a.layout.size)) / 9, "b1": rng.standard_normal(k), "w2": rng.standard_normal((k, k)),
                  "b2": rng.standard_normal(k), "up": rng.standard_normal((k, a.layout.size))} for t, a in attached.items()}
    params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), params)
    x = {t: jnp.asarray(rng.standard_normal((g, a.layout.size)), jnp.float32) for t, a in attached.items()}
    weights = jnp.asarray(rng.dirichlet(np.ones(3), g), jnp.float32)
    batch = {"input_ids": rng.integers(0, 50, (b, 6)), "attention_mask": np.ones((b, 6)), "target_ids": rng.integers(0, 50, (b, 2)),
             "target_mask": np.ones((b, 2))}
    batch = {name: jnp.asarray(a, jnp.int32) for name, a in batch.items()}
    frozen = {t: a.frozen for t, a in attached.items()}
    offsets = {t: jnp.asarray(a.theta0) for t, a in attached.items()}
    found, log = objective(params, weights, x, offsets, batch, frozen, {t: a.loss for t, a in attached.items()}, 0.7, reconstruction)
    total = 0.0
    for e in range(b):
        i, row = (e if per_example else 0), {name: a[e : e + 1] for name, a in batch.items()}
        z = {t: np.tanh(x[t][i] @ p["w1"].T + p["b1"]) @ p["w2"].T + p["b2"] for t, p in params.items()}
        mix = sum(weights[i, n] * z[t] for n, t in enumerate(z))
        for t, p in params.items():
            rest = np.asarray(x[t][i] - z[t] @ p["up"], np.float64)
            total += 0.7 * (np.sqrt(np.sum(rest**2)) if reconstruction == "norm" else np.mean(rest**2)) / b
            total += float(attached[t].loss(offsets[t] + mix @ p["up"], frozen[t], row)) / b
    assert float(found) == pytest.approx(total, rel=1e-4)
    assert float(found) == pytest.approx(0.7 * float(log["reconstruction"]) + float(log["task_loss"]), rel=1e-5)
    assert float(log["distance"]) > 0


def test_resume_equals_no_interruption(bank, tmp_path):
    """Stopped after any segment and started again, to the last bit; the log too. Several lengths of rows."""
    more = {"steps": 14, "segment": 2, "evaluate_every": 4, "reading": Reading(buckets=(5, 8, 12))}
    whole = fit(bank, **more)
    for stop in (2, 8):
        def interrupt(step, log, stop=stop):
            if step == stop + 2:
                raise KeyboardInterrupt

        file = tmp_path / f"{stop}.safetensors"
        with pytest.raises(KeyboardInterrupt):
            fit(bank, checkpoint=file, on_step=interrupt, **more)
        seen = []
        again = fit(bank, checkpoint=file, on_step=lambda step, log, seen=seen: seen.append(step), **more)
        assert seen[0] == stop + 2  # it went on, and did not begin anew
        assert again.history == whole.history
        np.testing.assert_array_equal(again.codes, whole.codes)
        for label, part in whole.parts.items():
            np.testing.assert_array_equal(again.parts[label].basis, part.basis)
            np.testing.assert_array_equal(again.parts[label].network.w1, part.network.w1)
    last = []
    done = fit(bank, checkpoint=file, on_step=lambda step, log: last.append(step), **more)
    assert last == []  # finished: nothing is trained again
    np.testing.assert_array_equal(done.codes, whole.codes)


def test_a_state_of_another_run_is_not_taken(bank, tmp_path):
    fit(bank, checkpoint=tmp_path / "s")
    for change in ({"seed": 1}, {"pairs": bank.pairs()[:8]}):
        seen = []
        fit(bank, checkpoint=tmp_path / "s", on_step=lambda step, log, seen=seen: seen.append(step), **change)
        assert seen == [3, 6]
    (tmp_path / "s").write_bytes(b"cut")
    seen = []
    fit(bank, checkpoint=tmp_path / "s", on_step=lambda step, log: seen.append(step))
    assert seen == [3, 6]


def test_before_the_first_step_it_is_joint_svd(bank):
    """The warm start decodes to the same points, up to tanh's bend, in the same coordinates."""
    joint, start = subspace.joint_svd(bank, 3), fit(bank, steps=1, evaluate_every=1, learning_rate=1e-12)
    np.testing.assert_allclose(start.spectrum[:3], joint.spectrum[:3], rtol=0.02)
    for label in joint.labels:
        theta = joint.parts[label].theta0 + np.stack(bank.rows(label, joint.pairs))
        ours, theirs = (s.decode(label, s.encode(label, theta)) for s in (start, joint))
        assert np.linalg.norm(ours - theirs) < 0.05 * np.linalg.norm(theirs - joint.parts[label].offset)
        assert start.energy[label] == pytest.approx(joint.energy[label], abs=0.03)


@pytest.mark.parametrize(("start", "rate", "alpha"), [("random", 1e-3, 1.0), ("joint_svd", 1e-4, 0.01)])
def test_it_learns(bank, start, rate, alpha):
    space = fit(bank, start=start, learning_rate=rate, alpha=alpha, steps=300, evaluate_every=100, segment=50, batch_size=16)
    losses = [entry["dev_loss"] for entry in space.history]
    assert [entry["step"] for entry in space.history] == [0, 100, 200, 300]
    assert min(losses) < 0.5 * losses[0]
    assert space.history[-1]["reconstruction"] < space.history[1]["reconstruction"]


def test_single_task_with_one_solution_a_type(bank):
    """The paper's first setting: k is not bound by the number of solutions, and z has a scale of 1."""
    space = fit(bank, k=4, setting="single", start="random", pairs=[("task3", 0)])
    assert space.k == 4
    assert np.mean(space.codes**2) == pytest.approx(1, rel=1e-3)
    for label, part in space.parts.items():
        np.testing.assert_array_equal(part.mean, 0)  # as in the paper: z = 0 is θ0
        assert np.isfinite(space.encode(label, part.theta0)).all()


def test_seeds_of_a_single_task(bank):
    space = fit(bank, k=1, setting="single", pairs=[("task3", 0), ("task3", 1)])
    np.testing.assert_allclose(np.sort(space.codes[:, 0]), [-1, 1], atol=1e-5)


def test_whitening_changes_no_point():
    rng, k = np.random.default_rng(0), 3
    projections = {t: {"w1": rng.standard_normal((k, d)), "b1": rng.standard_normal(k), "w2": rng.standard_normal((k, k)),
                       "b2": rng.standard_normal(k), "up": rng.standard_normal((k, d))} for t, d in (("a", 7), ("b", 11))}
    codes = {t: rng.standard_normal((9, k)) + 3 for t in projections}
    for n in (9, 2):
        found = whiten(projections, {t: c[:n] for t, c in codes.items()}, {"a": 2.0, "b": 5.0})
        middle = (codes["a"][:n] + codes["b"][:n]) / 2
        for t, (shift, basis, net) in found.parts.items():
            p = projections[t]
            np.testing.assert_allclose(shift + found.codes @ basis, middle @ p["up"], atol=1e-4)
            x = rng.standard_normal((4, p["up"].shape[1]))
            z = np.tanh(x @ p["w1"].T + p["b1"]) @ p["w2"].T + p["b2"]
            again = np.tanh((x - shift) @ net.w1.T + net.b1) @ net.w2.T + net.b2
            np.testing.assert_allclose(shift + again @ basis, z @ p["up"], atol=1e-4)


def test_nan_later_keeps_the_best_step(bank):
    space = fit(bank, steps=12, learning_rate=1e30)
    assert space.history[-1]["step"] < 12
    assert all(np.isfinite(part.basis).all() for part in space.parts.values())


def test_refusals(bank, refused):
    with refused("8 tasks", "multi"):
        fit(bank, setting="single")
    with refused("at most 1", "random"):
        fit(bank, k=2, setting="single", pairs=[("task3", 0), ("task3", 1)])
    for name, value in (("steps", 0), ("batch_size", 0), ("start", "pca"), ("alpha", -1.0), ("learning_rate", 0.0)):
        with refused(name):
            Autoencoder(**{name: value})
    broken = planted()
    broken.starts["lora"] = np.full_like(broken.starts["lora"], np.nan)
    with refused("finite dev loss"):
        fit(broken)


def test_paper_defaults():
    single, multi = Autoencoder(setting="single"), Autoencoder(setting="multi")
    assert (single.weight, single.batch) == (0.1, 8)
    assert (multi.weight, multi.batch) == (10.0, 16)
    assert Autoencoder(alpha=0.0).weight == 0.0
    assert (multi.learning_rate, multi.optimizer, multi.simplex, multi.start) == (1e-4, "adafactor", "dirichlet", "joint_svd")


def test_on_a_real_backbone_and_bank(backbone, small_tasks, tmp_path, refused):
    """Real deltas of two types and sizes on a tiny T5, in a real bank: every method, and what is refused."""
    bank, rng = Bank(tmp_path / "bank", create=True), np.random.default_rng(0)
    types = [deltas.LoRA(rank=2), deltas.Adapter(bottleneck=3)]
    attached = {t.label: deltas.Attached.of(backbone, t) for t in types}
    for label, one in attached.items():
        bank.add_start(one)
        for task in small_tasks:
            bank.add(Solution(task=task.name, seed=0, config=one.config, layout=one.layout, theta0=one.theta0,
                              vector=(0.1 * rng.standard_normal(one.layout.size)).astype(np.float32), backbone=backbone.fingerprint,
                              theta0_fingerprint=one.theta0_fingerprint))
        assert bank.labels()[-1] == "lora" or label == "lora"
    for method in (subspace.joint_svd, subspace.random_basis, subspace.shuffled, subspace.mean_only):
        space = method(bank, 2)
        space.save(tmp_path / space.method)
        assert Subspace.load(tmp_path / space.method, bank).parts["lora"].config == deltas.LoRA(rank=2)
    settings = Autoencoder(**{**SHORT, "steps": 3, "learning_rate": 1e-4})
    space = subspace.autoencoder(bank, 2, attached=attached, tasks=small_tasks, settings=settings, checkpoint=tmp_path / "state")
    assert space.labels == list(attached)
    assert [set(entry) for entry in space.history][-1] == {"step", "reconstruction", "task_loss", "distance", "dev_loss"}
    assert all(np.isfinite(entry["dev_loss"]) for entry in space.history)
    found = subspace.optimize(space, backbone, small_tasks[0], "lora", training=deltas.Training(steps=2, evaluate_every=1, dev_rows=4))
    assert found.z.shape == (2,)
    with refused("task", small_tasks[0].name):
        subspace.autoencoder(bank, 1, attached=attached, tasks={t.name: t for t in small_tasks[1:]})
    with refused("delta type", "adapter"):
        subspace.autoencoder(bank, 1, attached={"lora": attached["lora"]}, tasks=small_tasks, labels=["lora", "adapter"])
    other = {label: deltas.Attached.of(backbone, one.config, seed=1) for label, one in attached.items()}
    with refused("θ0", "attached_from"):
        subspace.autoencoder(bank, 1, attached=other, tasks=small_tasks)

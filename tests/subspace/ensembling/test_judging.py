"""All sources over one target's rows: sums equal to those of one source, gradients equal to JAX's, and one batch at a time on the device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from deltas import Adapter, LoRA, Reading, Solution
from deltas.evaluation import Exam, evaluate_each
from deltas.functional import Attached
from deltas.tuning import Job, Training
from subspace.ensembling import batches_of, blocks_of, hidden_cosines, judge, learn_weights, of_one_type
from subspace.ensembling.blocks import block_of
from subspace.ensembling.learned import by_softmax, freely
from subspace.rows import Stored

READING = Reading(max_input=16, max_target=4, decode="rank")


@pytest.fixture(scope="module")
def lora(backbone):
    return Attached.of(backbone, LoRA(rank=2))


@pytest.fixture(scope="module")
def exam(backbone):
    return Exam.of(backbone, toy.classify(), "dev", READING)


@pytest.fixture(scope="module")
def rows(lora):
    rng = np.random.default_rng(1)
    return [0.3 * rng.standard_normal(lora.layout.size).astype(np.float32) for _ in range(3)]


@pytest.fixture(scope="module")
def judged(lora, exam, rows):
    return judge(lora, rows, exam, reference=rows[0], rows_at_once=8, gradients=3, gradient_rows=4)


def test_the_loss_is_that_of_evaluation(lora, exam, rows, judged):
    scores = evaluate_each(lora, lora.theta0 + np.stack(rows), [exam] * 3, rows_at_once=8)
    np.testing.assert_allclose(judged.scores["loss"] / judged.tokens, [s.loss for s in scores], rtol=1e-5)
    assert judged.tokens == int(exam.encoded.target_lengths.sum())
    assert judged.scores["kl"][0] < 1e-4 < judged.scores["kl"][1]  # the reference is the first of the sources
    assert all((judged.scores[name] > 0).all() for name in ("el2n", "cosine"))


def test_grand_is_the_sum_of_the_norms_of_jaxs_gradients(lora, exam, rows, judged):
    encoded, width = exam.encoded, exam.encoded.target_ids.shape[1]
    expected, first, slope = np.zeros(3), np.zeros(3), jax.jit(jax.grad(lora.loss))
    for start in (0, 4):  # ten rows: two batches of four, the rest is too few for a third
        part = slice(start, start + 4)
        batch = {"input_ids": encoded.input_ids[part], "target_ids": encoded.target_ids[part],
                 "attention_mask": (np.arange(encoded.input_ids.shape[1]) < encoded.input_lengths[part, None]).astype(np.int32),
                 "target_mask": (np.arange(width) < encoded.target_lengths[part, None]).astype(np.int32)}
        for n, row in enumerate(rows):
            gradient = np.asarray(slope(lora.theta0 + row, lora.frozen, batch))
            expected[n] += np.linalg.norm(gradient)
            own = [value for name, value in lora.layout.unflatten(gradient).items() if name.startswith("encoder.0.")]
            first[n] += np.sqrt(sum(np.sum(np.square(value)) for value in own))
    np.testing.assert_allclose(judged.grand, expected, rtol=1e-4)
    np.testing.assert_allclose(judged.blocks["encoder.0"], first, rtol=1e-4)
    assert list(judged.blocks) == ["decoder.0", "encoder.0"]


def test_what_is_on_the_device_does_not_grow_with_the_sources(lora, exam, rows):
    """Live arrays while a source is read: the batch, and one delta that came and went."""
    counts = []

    class Rows(Stored):
        def __getitem__(self, n):
            counts.append(sum(a.nbytes for a in jax.live_arrays()))
            return super().__getitem__(n)

    judge(lora, Rows(rows * 8), exam, rows_at_once=8)
    assert len(counts) == 24 * len(batches_of(exam, 8))
    assert max(counts) - counts[0] < 4 * lora.layout.size  # less than one delta more than at the first source


def test_a_delta_agrees_with_itself_block_by_block(lora, exam, rows):
    found = hidden_cosines(lora, rows, rows[1], batches_of(exam, 8))
    assert sorted(found) == ["decoder.0", "encoder.0"]
    for values in found.values():
        np.testing.assert_allclose(values[1], 1, atol=1e-5)
        assert (values < 1 + 1e-5).all()
        assert values[0] < 1 - 1e-4


def test_blocks_of_names(lora):
    assert [block_of(name) for name in ("encoder.3.attn.q.a", "encoder_input.rows", "head.b")] == ["encoder.3", "encoder_input", "head"]
    assert sorted(name for names in blocks_of(lora.layout).values() for name in names) == sorted(lora.layout.names)


def test_learned_weights_find_the_source_that_answers(lora, rows):
    job = Job(toy.classify(), 0)
    training = Training(steps=8, batch_size=8, learning_rate=0.3, warmup=0, clip=0.0, evaluate_every=8, segment=8)
    mixed = learn_weights(lora, rows, job, training, READING)
    assert abs(mixed.sum() - 1) < 1e-5
    exam = Exam.of(lora.backbone, job.task, "train", READING)
    losses = judge(lora, [np.mean(rows, axis=0), np.average(rows, axis=0, weights=mixed)], exam, rows_at_once=8).scores["loss"]
    assert losses[1] < losses[0]


def test_learned_weights_begin_at_the_uniform_mean(lora, rows):
    constants = (jnp.asarray(lora.theta0), jnp.asarray(np.stack(rows)))
    for decode in (by_softmax, freely):
        np.testing.assert_allclose(decode(jnp.zeros(3), constants), lora.theta0 + np.mean(rows, axis=0), atol=1e-6)
    found = freely(jnp.array([0.0, -1.0, 2.0]), constants)
    np.testing.assert_allclose(found, lora.theta0 + rows[0] / 3 - rows[1] * 2 / 3 + rows[2] * 7 / 3, atol=1e-5)


def test_refused(lora, exam, rows, backbone, refused):
    with refused("numbers", "7"):
        judge(lora, [np.zeros(7, np.float32)] * 2, exam)
    with refused("softmax or free", "hard"):
        learn_weights(lora, rows, Job(toy.classify(), 0), Training(), READING, "hard")
    other = Attached.of(backbone, Adapter(bottleneck=2))
    both = [Solution(task="t", seed=0, config=a.config, layout=a.layout, vector=np.zeros(a.layout.size, np.float32), theta0=a.theta0,
                     backbone="b", theta0_fingerprint=a.theta0_fingerprint) for a in (lora, other)]
    with refused("one delta type", "adapter and lora"):
        of_one_type(both)
    of_one_type([both[0]] * 2)

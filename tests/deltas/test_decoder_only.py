"""A decoder alone reads a prompt and writes an answer: the loss is that on the answer, whatever is attached and however it is padded."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from deltas import Attached, LoRA, Prefix, Prompt, Reading, Training, load_backbone, train
from deltas.evaluation import Exam, evaluate_each

READING = Reading(max_input=16, max_target=4, buckets=(8, 12))
TRAINING = Training(steps=10, batch_size=8, learning_rate=0.05, warmup=0, evaluate_every=5, segment=5, dev_rows=8)
ONE = {"gpt2": {"n_layer": 1}}
CASES = {"gpt2": Prompt(length=3), "llama": Prefix(length=3, shift=True), "mistral": Prefix(length=2)}


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    made = {}
    return lambda kind: made.get(kind) or made.setdefault(kind, load_backbone(
        toy.write_folder(tmp_path_factory.mktemp(kind), kind, **ONE.get(kind, {"num_hidden_layers": 1}))))


@pytest.fixture(scope="module", params=list(CASES))
def case(request, backbones):
    """A delta attached at a θ that matters, and its compiled token losses."""
    one = Attached.of(backbones(request.param), CASES[request.param])
    noise = np.random.default_rng(4).standard_normal(one.layout.size)
    return one, jnp.asarray(one.theta0 + 0.3 * noise, jnp.float32), jax.jit(one.token_losses)


def plain(one, theta, batch):
    """−log p of each target token in prompt + answer, written without a gap into one row and read by the module in one causal pass."""
    rows = [[*ids[mask > 0], *target[kept > 0]] for ids, mask, target, kept in zip(
        *(np.asarray(batch[n]) for n in ("input_ids", "attention_mask", "target_ids", "target_mask")), strict=True)]
    width = max(map(len, rows)) + 1
    ids = np.array([row + [0] * (width - len(row)) for row in rows])
    mask = (np.arange(width) < np.array([len(row) for row in rows])[:, None]).astype(np.int32)
    logits = np.asarray(jax.jit(lambda theta, frozen: one.module(theta, frozen)(ids, mask))(theta, one.frozen), np.float64)
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    losses = np.zeros(batch["target_ids"].shape)
    for i, row in enumerate(rows):
        count = int(batch["target_mask"][i].sum())
        for j in range(count):
            place = len(row) - count + j
            losses[i, j] = -logp[i, place - 1, row[place]]
    return losses


def test_the_loss_is_that_of_the_answer_in_one_causal_pass(case, batch):
    """Prompts and answers of different lengths, each padded on its own; a prompt of a single token among them."""
    one, theta, losses = case
    given = losses(theta, one.frozen, batch)
    assert given.shape == (4, 5)
    np.testing.assert_allclose(given, plain(one, theta, batch), atol=2e-5)
    assert float(jnp.abs(given - losses(jnp.asarray(one.theta0), one.frozen, batch)).max()) > 1e-2


@pytest.mark.parametrize("case", ["gpt2", "llama"], indirect=True)
def test_likelihoods_are_sums_of_token_losses(case, batch):
    one, theta, losses = case
    labels, mask = jnp.asarray([[60, 1, 0, 0, 0], [61, 5, 1, 0, 0]]), jnp.asarray([[1, 1, 0, 0, 0], [1, 1, 1, 0, 0]])
    ranked = jax.jit(one.likelihoods)(theta, one.frozen, batch, labels, mask)
    for i in range(2):
        as_targets = {**batch, "target_ids": jnp.tile(labels[i], (4, 1)), "target_mask": jnp.tile(mask[i], (4, 1))}
        np.testing.assert_allclose(ranked[:, i], -losses(theta, one.frozen, as_targets).sum(-1), rtol=1e-4)


@pytest.mark.parametrize("case", ["gpt2", "llama"], indirect=True)
def test_what_it_writes_is_what_it_finds_likeliest(case, batch):
    """Each greedy token is the most likely one after the tokens before it, with a prompt or a prefix attached."""
    one, theta, _ = case
    written = np.asarray(jax.jit(one.generate, static_argnums=3)(theta, one.frozen, batch, 5))
    assert len(np.unique(written)) > 3
    ended = np.cumsum(written == one.backbone.config.eos_token_id, axis=1) - (written == one.backbone.config.eos_token_id)
    logits = jax.jit(one.logits)(theta, one.frozen, {**batch, "target_ids": jnp.asarray(written)})
    np.testing.assert_array_equal(np.where(ended, 0, np.argmax(logits, axis=-1)), np.where(ended, 0, written))


def test_a_line_break_stands_between_prompt_and_answer(backbones):
    task = toy.classify()
    encoded = Exam.of(backbones("gpt2"), task, "test", READING, 3).encoded
    for example, ids, length, target in zip(task.test, encoded.input_ids, encoded.input_lengths, encoded.target_ids, strict=False):
        words = {word: i for i, word in enumerate(toy.VOCABULARY)}
        assert ids[:length].tolist() == [*(words[w] for w in example.input.split()), toy.NEWLINE]
        assert (ids[length:] == 0).all()
        assert target[:2].tolist() == [words[example.answers[0]], 1]
    short = Exam.of(backbones("gpt2"), task, "test", dataclasses.replace(READING, max_input=3), 3).encoded
    assert (short.input_ids[:, 2] == toy.NEWLINE).all()  # it survives truncation


@pytest.mark.parametrize(("kind", "decode"), [("gpt2", "generate"), ("llama", "rank")])
def test_training_lowers_the_loss(backbones, kind, decode, tmp_path):
    backbone, task, reading = backbones(kind), toy.classify(), dataclasses.replace(READING, decode=decode)
    bank = train(backbone, [task], [LoRA(rank=2)], out=tmp_path, training=TRAINING, reading=reading, test_rows=8)
    solution, one = bank.load("lora", task.name, 0), Attached.of(backbone, LoRA(rank=2))
    bare = evaluate_each(one, one.theta0[None], [Exam.of(backbone, task, "dev", reading, TRAINING.dev_rows)])[0]
    losses = [look["train_loss"] for look in solution.provenance["history"]]
    assert losses[-1] < losses[0]
    assert solution.scores["dev_loss"] < bare.loss - 0.5
    assert {"test", "test_loss"} <= set(solution.scores)


def test_a_task_without_labels_cannot_be_ranked(backbones, refused):
    with refused("rank", toy.copy().name, "generate"):
        Exam.of(backbones("gpt2"), toy.copy(), "test", dataclasses.replace(READING, decode="rank"))

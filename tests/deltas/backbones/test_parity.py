"""Our backbones are transformers' own: logits and greedy tokens of every family, against PyTorch or its stored answers.

The stored answers are made anew, on a machine with PyTorch, by `DELTASPACE_REGENERATE=1 pytest tests/deltas/backbones/test_parity.py`.
"""

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from flax import nnx

from deltas import load_backbone
from deltas.backbones.blocks import RelativePositions
from deltas.backbones.generate import greedy

GOLDEN = Path(__file__).parents[2] / "golden" / "backbones.npz"
NEW_TOKENS = 14
DISTANCES = np.arange(-400, 401)
TABLES = [(32, 128, True), (32, 128, False), (16, 32, True), (8, 20, True), (8, 20, False)]
STORED = slice(None, None, 4)
"""The logits that are stored: those of every fourth word, which are as many as the toys have hidden units."""

# The end tokens are such as the toys do write.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "v1.0": ("t5", {**toy.V1_0, "eos_token_id": 37}),
    "v1.1": ("t5", toy.V1_1),
    "flan": ("t5", {**toy.FLAN, "eos_token_id": 36}),
    "bart": ("bart", {"eos_token_id": 9}),
    "bert": ("bert", {}),
    "headless": ("bert", {toy.HEADLESS: True, "hidden_act": "gelu_new"}),
    "roberta": ("roberta", {"hidden_act": "relu"}),  # its head has a gelu all the same
    "gpt2": ("gpt2", {"eos_token_id": 38, "n_inner": 20}),
    "llama": ("llama", {"eos_token_id": [62, 61]}),
    "linear": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 3.0}, "num_key_value_heads": 4}),
    "mistral": ("mistral", {"eos_token_id": 53}),
    "qwen2": ("qwen2", {}),
}
WRITING = ["v1.0", "v1.1", "flan", "bart", "gpt2", "llama", "mistral"]
"""The cases whose greedy answers are compared too."""


def inputs() -> dict[str, np.ndarray]:
    """Six rows of different lengths and a decoder prefix; the second row of padding is all but one token."""
    rng, lengths = np.random.default_rng(5), np.array([11, 1, 7, 4, 11, 2])
    ids, mask = rng.integers(3, len(toy.VOCABULARY), (6, 11)), np.arange(11) < lengths[:, None]
    decoder = np.pad(rng.integers(3, len(toy.VOCABULARY), (6, 8)), ((0, 0), (1, 0)))
    return {"input_ids": (ids * mask).astype(np.int32), "attention_mask": mask.astype(np.int32), "decoder_input_ids": decoder.astype(np.int32)}


def kept(name: str, logits: np.ndarray) -> np.ndarray:
    """The logits [tokens, V] of the tokens that are no padding."""
    if CASES[name][0] in ("t5", "bart"):
        return logits.reshape(-1, logits.shape[-1])
    return logits[inputs()["attention_mask"] > 0]


@pytest.fixture(scope="module")
def model():
    """transformers' model of a case; made once."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, "T5ForConditionalGeneration"):
        pytest.skip("transformers without PyTorch models")
    made: dict[str, Any] = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the models are tiny
    yield lambda name: made.get(name) or made.setdefault(name, toy.original(CASES[name][0], **CASES[name][1]))
    torch.set_num_threads(threads)


def forward(name: str, model: Any) -> np.ndarray:
    """Logits, or the hidden states of a model without a head, as `kept` has them."""
    import torch

    batch = {name: torch.tensor(value).long() for name, value in inputs().items()}
    if CASES[name][0] not in ("t5", "bart"):
        del batch["decoder_input_ids"]
    with torch.no_grad():
        found = model(**batch)
    return kept(name, (found.last_hidden_state if "last_hidden_state" in found else found.logits).numpy())


def originals(name: str, model: Any) -> dict[str, np.ndarray]:
    """What transformers gives on the toy of this case: logits [tokens, V], greedy tokens [6, 14] each row alone without padding."""
    import torch

    answers = {"logits": forward(name, model)}
    if name in WRITING:
        tokens = np.zeros((6, NEW_TOKENS), np.int32)
        for row, ids, mask in zip(tokens, inputs()["input_ids"], inputs()["attention_mask"], strict=True):
            alone = torch.tensor(ids[mask > 0][None]).long()
            written = model.generate(input_ids=alone, attention_mask=torch.ones_like(alone), do_sample=False, num_beams=1,
                                     max_new_tokens=NEW_TOKENS)[0].numpy()
            written = written[1 if model.config.is_encoder_decoder else alone.shape[1] :]
            row[: len(written)] = written
        answers["tokens"] = tokens
    return answers


def their_buckets(buckets: int, furthest: int, two_way: bool) -> np.ndarray:
    torch = pytest.importorskip("torch")
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
    found = t5.T5Attention._relative_position_bucket(torch.tensor(DISTANCES), two_way, buckets, furthest)
    return found.numpy().astype(np.int32)


@pytest.fixture(scope="module")
def golden(request):
    """Stored answers of transformers."""
    if os.environ.get("DELTASPACE_REGENERATE"):
        model = request.getfixturevalue("model")
        answers = {f"{name}.{what}": value[:, STORED] if what == "logits" else value.astype(np.int8)
                   for name in CASES for what, value in originals(name, model(name)).items()}
        answers |= {"buckets." + ".".join(map(str, table)): their_buckets(*table).astype(np.int8) for table in TABLES}
        GOLDEN.parent.mkdir(exist_ok=True)
        np.savez_compressed(GOLDEN, **answers)
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.fixture(scope="module", params=list(CASES))
def ours(request, tmp_path_factory):
    """(case, what computes logits and greedy tokens of a padded batch by our backbone read from files, its answers to `inputs`)."""
    kind, changes = CASES[request.param]
    backbone = load_backbone(toy.write_folder(tmp_path_factory.mktemp("parity"), kind, **changes))
    graphdef, state = nnx.split(backbone.module)
    generate = jax.jit(lambda state, ids, mask: greedy(nnx.merge(graphdef, state), ids, mask, NEW_TOKENS))

    def answer(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        answers = {"logits": np.asarray(backbone.logits(batch))}
        if request.param in WRITING:
            answers["tokens"] = np.asarray(generate(state, jnp.asarray(batch["input_ids"]), jnp.asarray(batch["attention_mask"])))
        return answers

    answers = answer(inputs())
    return request.param, answer, {**answers, "logits": kept(request.param, answers["logits"])}


def buckets(count: int, furthest: int, two_way: bool) -> np.ndarray:
    table = RelativePositions(buckets=count, furthest=furthest, heads=1, two_way=two_way, std=1.0, rngs=nnx.Rngs(0))
    return np.asarray(table.bucket(jnp.asarray(DISTANCES)))


def agree(ours, theirs):
    assert set(ours) == set(theirs)
    np.testing.assert_allclose(ours["logits"], theirs["logits"], atol=1e-4 * min(1, np.std(theirs["logits"])), rtol=1e-4)
    if "tokens" in theirs:
        np.testing.assert_array_equal(ours["tokens"], theirs["tokens"])


def test_stored_answers(ours, golden):
    name, _, answers = ours
    stored = {what.removeprefix(f"{name}."): value for what, value in golden.items() if what.startswith(f"{name}.")}
    agree({**answers, "logits": answers["logits"][:, STORED]}, stored)


@pytest.mark.parametrize("ours", ["gpt2", "llama", "linear", "mistral", "qwen2"], indirect=True)
def test_a_decoder_alone_may_be_padded_on_the_left(ours):
    """Positions count the tokens of a prompt, wherever they stand in the row."""
    (_, answer, right), batch = ours, inputs()
    left = {what: np.stack([np.roll(row, 11 - int(mask.sum())) for row, mask in zip(batch[what], batch["attention_mask"], strict=True)])
            for what in ("input_ids", "attention_mask")}
    answers = answer(left)
    agree({**answers, "logits": answers["logits"][left["attention_mask"] > 0]}, right)


@pytest.mark.parametrize("name", WRITING)
def test_stored_answers_are_telling(golden, name):
    """Some rows end early, some do not, and the answers are not one token repeated, nor the last one read."""
    assert GOLDEN.stat().st_size < 100_000
    tokens = golden[f"{name}.tokens"]
    ends = np.ravel(CASES[name][1].get("eos_token_id", 1))
    assert 0 < np.isin(tokens, ends).any(1).mean() < 1
    assert all((row[np.argmax(end) + 1 :] == 0).all() for row, end in zip(tokens, np.isin(tokens, ends), strict=True) if end.any())
    assert len(np.unique(tokens)) > 5


@pytest.mark.parametrize("table", TABLES)
def test_stored_buckets(table, golden):
    np.testing.assert_array_equal(buckets(*table), golden["buckets." + ".".join(map(str, table))])


@pytest.mark.parity
def test_transformers(ours, model):
    name, _, answers = ours
    agree(answers, originals(name, model(name)))


@pytest.mark.parity
@pytest.mark.parametrize("name", list(CASES))
def test_every_weight_matters(name, model):
    """A tensor left out, or put in another order, would be seen in the logits far above the tolerance."""
    import torch

    given, plain = model(name), forward(name, model(name))
    unseen = []
    for where, weight in given.named_parameters():
        # A bias of the keys moves all scores of a query by the same number, unless positions turn the keys.
        if "pooler" in where or (where.endswith(("k_proj.bias", "key.bias")) and name != "qwen2"):
            continue
        before = weight.detach().clone()
        with torch.no_grad():
            weight.copy_(weight.flip(-1))
            unseen += [where] if np.abs(forward(name, given) - plain).max() < 1e-2 * np.std(plain) else []
            weight.copy_(before)
    assert not unseen


@pytest.mark.parity
@pytest.mark.parametrize("table", TABLES)
def test_transformers_buckets(table):
    np.testing.assert_array_equal(buckets(*table), their_buckets(*table))

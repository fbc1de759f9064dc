"""Our T5 is transformers' T5: logits, greedy tokens and relative positions, against PyTorch or its stored answers.

The stored answers are made anew, on a machine with PyTorch, by `DELTASPACE_REGENERATE=1 pytest tests/deltas/backbones/test_parity.py`.
"""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from flax import nnx

from deltas import load_backbone
from deltas.backbones.blocks import RelativePositions
from deltas.backbones.generate import greedy

GOLDEN = Path(__file__).parents[2] / "golden" / "t5.npz"
NEW_TOKENS = 14
DISTANCES = np.arange(-400, 401)
TABLES = [(32, 128, True), (32, 128, False), (16, 32, True), (8, 20, True), (8, 20, False)]


def inputs():
    """Six rows of different lengths and a decoder prefix; the second row of padding is all but one token."""
    rng, lengths = np.random.default_rng(5), np.array([11, 1, 7, 4, 11, 2])
    ids, mask = rng.integers(3, len(toy.VOCABULARY), (6, 11)), np.arange(11) < lengths[:, None]
    decoder = np.pad(rng.integers(3, len(toy.VOCABULARY), (6, 8)), ((0, 0), (1, 0)))
    return {"input_ids": (ids * mask).astype(np.int32), "attention_mask": mask.astype(np.int32), "decoder_input_ids": decoder.astype(np.int32)}


def originals(kind: str) -> dict[str, np.ndarray]:
    """What transformers gives on the toy of this kind: logits [6, 9, V] and greedy tokens [6, 14]."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    if not hasattr(transformers, "T5ForConditionalGeneration"):
        pytest.skip("transformers without PyTorch models")
    config = toy.config_of(**toy.FAMILY[kind])
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**toy.config_json(**toy.FAMILY[kind]))).eval()
    tensors = {name: torch.tensor(value) for name, value in toy.weights(config).items()}
    head = tensors.pop("lm_head.weight", None)
    assert not model.load_state_dict(tensors, strict=False).unexpected_keys
    if head is not None:  # transformers 5 ties it whatever the configuration says
        model.lm_head.weight = torch.nn.Parameter(head)
    batch = {name: torch.tensor(value).long() for name, value in inputs().items()}
    with torch.no_grad():
        logits = model(**batch).logits.numpy()
        tokens = model.generate(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], do_sample=False, num_beams=1,
                                max_new_tokens=NEW_TOKENS).numpy()[:, 1:]
    return {"logits": logits, "tokens": np.pad(tokens, ((0, 0), (0, NEW_TOKENS - tokens.shape[1]))).astype(np.int32)}


def their_buckets(buckets: int, furthest: int, two_way: bool) -> np.ndarray:
    torch = pytest.importorskip("torch")
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
    found = t5.T5Attention._relative_position_bucket(torch.tensor(DISTANCES), two_way, buckets, furthest)
    return found.numpy().astype(np.int32)


@pytest.fixture(scope="module")
def golden():
    """Stored answers of transformers."""
    if os.environ.get("DELTASPACE_REGENERATE"):
        answers = {f"{kind}.{what}": value for kind in toy.FAMILY for what, value in originals(kind).items()}
        answers |= {"buckets." + ".".join(map(str, table)): their_buckets(*table) for table in TABLES}
        GOLDEN.parent.mkdir(exist_ok=True)
        np.savez_compressed(GOLDEN, **answers)
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.fixture(scope="module", params=list(toy.FAMILY))
def ours(request, tmp_path_factory):
    """(kind, logits, greedy tokens) of our T5 read from files."""
    backbone = load_backbone(toy.write_folder(tmp_path_factory.mktemp("parity"), **toy.FAMILY[request.param]))
    batch = inputs()
    graphdef, state = nnx.split(backbone.module)
    generate = jax.jit(lambda state, ids, mask: greedy(nnx.merge(graphdef, state), ids, mask, NEW_TOKENS))
    tokens = generate(state, jnp.asarray(batch["input_ids"]), jnp.asarray(batch["attention_mask"]))
    return request.param, np.asarray(backbone.logits(batch)), np.asarray(tokens)


def buckets(count: int, furthest: int, two_way: bool) -> np.ndarray:
    table = RelativePositions(buckets=count, furthest=furthest, heads=1, two_way=two_way, std=1.0, rngs=nnx.Rngs(0))
    return np.asarray(table.bucket(jnp.asarray(DISTANCES)))


def agree(ours, theirs):
    _, logits, tokens = ours
    np.testing.assert_allclose(logits, theirs["logits"], atol=1e-4, rtol=1e-4)
    np.testing.assert_array_equal(tokens, theirs["tokens"])


def test_stored_answers(ours, golden):
    agree(ours, {what: golden[f"{ours[0]}.{what}"] for what in ("logits", "tokens")})


def test_stored_answers_are_telling(golden):
    """Some rows end early, some do not, and the answers are not one token repeated."""
    assert GOLDEN.stat().st_size < 100_000
    tokens = [golden[f"{kind}.tokens"] for kind in toy.FAMILY]
    assert 0 < np.mean([(rows == 1).any(1) for rows in tokens]) < 1
    assert min(len(np.unique(rows)) for rows in tokens) > 5


@pytest.mark.parametrize("table", TABLES)
def test_stored_buckets(table, golden):
    np.testing.assert_array_equal(buckets(*table), golden["buckets." + ".".join(map(str, table))])


@pytest.mark.parity
def test_transformers(ours):
    agree(ours, originals(ours[0]))


@pytest.mark.parity
@pytest.mark.parametrize("table", TABLES)
def test_transformers_buckets(table):
    np.testing.assert_array_equal(buckets(*table), their_buckets(*table))

"""Real backbones are what PyTorch makes of them: logits or hidden states, and greedy tokens, of a few sentences.

Only where DELTASPACE_REAL names a folder that holds `t5-small`, `smollm2` and `minilm`; a folder that is not there is left out.
"""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from deltas import load_backbone
from deltas.backbones.generate import greedy
from deltas.verbalizer import pooled

pytestmark = [pytest.mark.parity, pytest.mark.slow]
FOLDER = os.environ.get("DELTASPACE_REAL", "")
NEW_TOKENS = 12
SENTENCES = {
    "t5-small": ["The harbour was <extra_id_0> quiet in the morning, <extra_id_1> the gulls had left.", "Paris is <extra_id_0> France.",
                 "She opened the letter <extra_id_0> read it twice before she <extra_id_1> anything to her brother, who <extra_id_2>."],
    "smollm2": ["The capital of Norway is", "Water boils at one hundred degrees because", "1, 2, 3, 5, 8, 13,",
                "def mean(values):\n    \"\"\"The arithmetic mean of a list of numbers.\"\"\"\n"],
    "minilm": ["A man is playing a flute.", "Someone makes music on a wooden instrument.", "The stock market fell sharply on Tuesday."],
}
MODELS = {"t5-small": "AutoModelForSeq2SeqLM", "smollm2": "AutoModelForCausalLM", "minilm": "AutoModel"}


@pytest.fixture(scope="module", params=list(SENTENCES))
def case(request):
    """(name, our backbone, theirs, a padded batch)."""
    if not (Path(FOLDER) / request.param / "config.json").is_file() or not FOLDER:
        pytest.skip(f"no DELTASPACE_REAL with {request.param}")
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = Path(FOLDER) / request.param
    theirs = getattr(transformers, MODELS[request.param]).from_pretrained(folder, dtype="float32").eval()
    ours = load_backbone(folder)
    tokenizer = ours.tokenizer
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token_id = ours.config.pad_token_id
    batch = tokenizer(SENTENCES[request.param], padding=True, padding_side="right", return_tensors="np")
    given = {name: np.asarray(batch[name], np.int32) for name in ("input_ids", "attention_mask")}
    if ours.kind == "encoder-decoder":
        answers = np.random.default_rng(0).integers(3, 30000, (len(given["input_ids"]), 9))
        given["decoder_input_ids"] = np.pad(answers, ((0, 0), (1, 0)))[:, :-1].astype(np.int32)
    return request.param, ours, theirs, given


def test_logits(case):
    import torch

    name, ours, theirs, batch = case
    with torch.no_grad():
        found = theirs(**{name: torch.tensor(value).long() for name, value in batch.items()})
    expected = (found.logits if "logits" in found else found.last_hidden_state).numpy()
    seen = batch["attention_mask"] > 0 if ours.kind != "encoder-decoder" else np.ones(expected.shape[:2], bool)
    given = np.asarray(ours.logits(batch))[seen]
    print(f"\n{name}: largest difference {np.abs(given - expected[seen]).max():.1e} of values up to {np.abs(expected[seen]).max():.1f}, "
          f"spread {expected[seen].std():.2f}")
    np.testing.assert_allclose(given, expected[seen], atol=1e-4, rtol=1e-4)


def test_greedy_tokens(case):
    import torch

    name, ours, theirs, batch = case
    if ours.kind == "encoder":
        pytest.skip("an encoder writes nothing")
    graphdef, state = nnx.split(ours.module)
    tokens = np.asarray(jax.jit(lambda state, ids, mask: greedy(nnx.merge(graphdef, state), ids, mask, NEW_TOKENS))(
        state, jnp.asarray(batch["input_ids"]), jnp.asarray(batch["attention_mask"])))
    for row, ids, mask in zip(tokens, batch["input_ids"], batch["attention_mask"], strict=True):
        alone = torch.tensor(ids[mask > 0][None]).long()
        written = theirs.generate(input_ids=alone, attention_mask=torch.ones_like(alone), do_sample=False, num_beams=1,
                                  max_new_tokens=NEW_TOKENS)[0].numpy()
        written = written[1 if ours.kind == "encoder-decoder" else alone.shape[1] :]
        print(f"\n{name}: {ours.tokenizer.decode(written)!r}")
        np.testing.assert_array_equal(row[: len(written)], written)
        assert (row[len(written) :] == ours.config.pad_token_id).all()


def test_sentence_vectors(case):
    """MiniLM's own recipe: the mean over the tokens; sentences of one meaning are near each other."""
    import torch

    name, ours, theirs, batch = case
    if name != "minilm":
        pytest.skip("no sentence encoder")
    with torch.no_grad():
        hidden = theirs(**{name: torch.tensor(value).long() for name, value in batch.items()}).last_hidden_state
    weights = torch.tensor(batch["attention_mask"]).float()[..., None]
    expected = ((hidden * weights).sum(1) / weights.sum(1)).numpy()
    given = np.asarray(pooled(ours.module.encode(jnp.asarray(batch["input_ids"]), jnp.asarray(batch["attention_mask"])),
                              jnp.asarray(batch["attention_mask"])))
    np.testing.assert_allclose(given, expected, atol=1e-5)
    unit = given / np.linalg.norm(given, axis=1, keepdims=True)
    assert unit[0] @ unit[1] > 0.5 > 0.3 > unit[0] @ unit[2]

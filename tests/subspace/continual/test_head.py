"""What the head reads of a text, on a backbone of each kind: the text's own tokens, whatever it is padded with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from flax import nnx

import deltas
from deltas.verbalizer import pooled
from subspace.continual import features

IDS = np.array([[5, 9, 11, 7, 3], [8, 6, 0, 0, 0]], np.int32)
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]], np.int32)


@pytest.mark.parametrize(("kind", "changes"), [("bert", {"num_hidden_layers": 1}), ("t5", toy.SHALLOW), ("llama", {"num_hidden_layers": 1})])
def test_features_are_of_the_tokens_alone(kind, changes, tmp_path):
    backbone = deltas.load_backbone(toy.write_folder(tmp_path, kind, **changes))
    graphdef, state = nnx.split(backbone.module)
    hidden, found = jax.jit(lambda state: (nnx.merge(graphdef, state).hidden(IDS, MASK), features(nnx.merge(graphdef, state), IDS, MASK)))(state)
    assert hidden.shape == (2, 5, 16)
    expected = jnp.stack([hidden[0, 4], hidden[1, 1]]) if kind == "llama" else pooled(hidden, jnp.asarray(MASK))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    other = np.where(MASK, IDS, 13)
    again = jax.jit(lambda state: features(nnx.merge(graphdef, state), other, MASK))(state)
    np.testing.assert_allclose(again, found, rtol=1e-4, atol=1e-5)

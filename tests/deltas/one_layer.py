"""Every family as a backbone of one layer, each read once, and programs that compile quickly."""

import functools
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import toy

import deltas
from deltas.evaluation import Exam, batch_of

ONE = {"bart": {"encoder_layers": 1, "decoder_layers": 1}, "gpt2": {"n_layer": 1}, "t5": toy.SHALLOW}
READING = deltas.Reading(max_input=8, decode="rank")


@functools.cache
def backbone_of(family: str, dtype: str = "float32") -> deltas.Backbone:
    """The toy of a column of the support table."""
    kind = "bert" if family == "headless" else family
    changes: dict[str, Any] = dict(ONE.get(kind, {"num_hidden_layers": 1}))
    if family == "headless":
        changes[toy.HEADLESS] = True
    with tempfile.TemporaryDirectory() as folder:
        return deltas.load_backbone(toy.write_folder(Path(folder), kind, **changes), dtype=dtype)


@functools.cache
def batch_for(family: str) -> dict[str, jax.Array]:
    """Four rows of different lengths, as training reads them: tokens after tokens, or one of two labels."""
    backbone = backbone_of(family)
    if backbone.kind == "encoder":
        rows = Exam.of(backbone, toy.classify(lengths=(2, 6)), "train", READING, 4).encoded
        found: Mapping[str, Any] = {**batch_of(rows, np.arange(4), 8, 1), **rows.tables}
    else:
        rng, lengths = np.random.default_rng(3), {"input": np.array([7, 4, 2, 6]), "target": np.array([3, 2, 3, 1])}
        masks = {what: (np.arange(longest.max()) < longest[:, None]).astype(np.int32) for what, longest in lengths.items()}
        ids = {what: rng.integers(3, 60, mask.shape) * mask for what, mask in masks.items()}
        found = {"input_ids": ids["input"], "attention_mask": masks["input"], "target_ids": ids["target"], "target_mask": masks["target"]}
    return {name: jnp.asarray(value) for name, value in found.items()}


def compiled(fn: Callable[..., Any], *args: Any) -> Callable[..., Any]:
    """The program of fn for these arguments, which only its caller keeps."""
    return jax.jit(fn).lower(*args).compile(compiler_options=quick())


@functools.cache
def quick() -> dict[str, Any]:
    """What makes small programs for a processor compile three times as quickly, where this XLA has it."""
    options = {"xla_cpu_use_fusion_emitters": False}
    try:
        jax.jit(lambda x: x + 1).lower(0.0).compile(compiler_options=options)
    except jax.errors.JaxRuntimeError:
        return {}
    return options

"""Prefix and prompt tuning in PEFT's form, and in ours: one tensor, `prompt_embeddings`.

Prefix: (P, 2 · L · heads · head_dim), the row pair 2l, 2l + 1 being keys and values of layer l; where keys and values are shared by groups of
heads, `heads` counts those. The reparameterising network is folded in. PEFT hands the rows over as a cache of the P positions before the
tokens: the tokens stand P further right, which learned and rotary positions notice, and the rows are not turned by rotary positions. A
window of attention slides over the rows too, which ours never does: such backbones are refused.

Prefix of an encoder-decoder: the list of 2L rows is doubled and cut by fours, of which a layer takes the first two as its self-attention's
keys and values; the other two, meant for cross-attention, are thrown away by PEFT, and the encoder gets nothing. Layer l of the decoder
thus has pair 2l mod L: with L even, layers l and l + L/2 share their rows and half of the pairs are never read; with L odd, all are read.

Prompt: (P, d) before the embedded tokens of the stack that reads the input. For an encoder-decoder PEFT saves 2P rows by default, of which
it reads the first P.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deltas.backbones.loading import Backbone
from deltas.checkpoints import peft_config
from deltas.checkpoints.names import Names
from deltas.checkpoints.reading import Tensors
from deltas.errors import InputError
from deltas.types import Prefix, Prompt

Arrays = dict[str, np.ndarray]
KEY = "prompt_embeddings"


def _self_attention(backbone: Backbone) -> list[str]:
    """Where PEFT's prefix stands: in the decoder where there is one."""
    c = backbone.config
    return [f"decoder.{i}.attn" for i in range(c.num_decoder_layers)] or [f"encoder.{i}.attn" for i in range(c.num_layers)]


def _pairs(backbone: Backbone, layers: int) -> list[int]:
    """Which of the L pairs of rows each layer of the decoder takes."""
    return [2 * i % layers for i in range(layers)] if backbone.kind == "encoder-decoder" else list(range(layers))


# ------------------------------------------------------------ prefix
def read_prefix(raw: Mapping[str, Any], tensors: Tensors, names: Names, path: Path, label: str, backbone: Backbone) -> tuple[Prefix, Arrays]:
    """The configuration and the rows of a PEFT prefix."""
    length, layers, heads, width = (peft_config.number(raw, key, path)
                                    for key in ("num_virtual_tokens", "num_layers", "num_attention_heads", "token_dim"))
    _no_window(backbone)
    sites = _self_attention(backbone)
    first: Any = names.sites[sites[0]]
    submodules = raw.get("num_transformer_submodules")
    wanted = 2 if backbone.kind == "encoder-decoder" else 1
    sizes = {"num_layers": (layers, len(sites)), "num_attention_heads": (heads, first.kv_heads),
             "token_dim": (width, first.kv_heads * first.head_dim), "num_transformer_submodules": (submodules, wanted)}
    if odd := {what: pair for what, pair in sizes.items() if pair[0] != pair[1]}:
        raise InputError(f"expected {', '.join(f'{what} {ours}' for what, (_, ours) in odd.items())} in {path} for this backbone, got "
                         f"{', '.join(str(theirs) for theirs, _ in odd.values())}; use the backbone it was trained on")
    whole = tensors.take(KEY, (length, 2 * layers * width)).reshape(length, layers, 2, heads, width // heads)
    tensors.done()
    pairs = _pairs(backbone, layers)
    if unread := sorted(set(range(layers)) - set(pairs)):
        warnings.warn(f"{path} has {len(unread)} of {layers} pairs of keys and values that PEFT saves and no layer of an encoder-decoder reads; "
                      "they are not brought in", UserWarning, stacklevel=5)
    parameters = {f"{site}.{kind}": whole[:, pair, j]
                  for site, pair in zip(sites, pairs, strict=True) for j, kind in enumerate(("keys", "values"))}
    return Prefix(label=label, length=length, start="normal", shift=_shifted(backbone), sites=names.patterns(sites)), parameters


def _shifted(backbone: Backbone) -> bool:
    """Whether the tokens must be moved for the rows to stand right before them: relative positions are so without."""
    return backbone.config.positions != "relative"


def _no_window(backbone: Backbone) -> None:
    if backbone.config.window is not None:
        raise InputError(f"expected a backbone without a window of attention for a prefix of PEFT's, got {backbone.family} with a window of "
                         f"{backbone.config.window}; the rows leave that window in PEFT and stay in sight here")


def write_prefix(config: Prefix, rows: Mapping[str, tuple[np.ndarray, np.ndarray]], backbone: Backbone) -> tuple[dict[str, Any], Arrays]:
    """The configuration and the tensor of a PEFT prefix that computes the same.

    Args:
        rows: keys and values [P, kv_heads, head_dim] by attention site, out of whatever made them.
    """
    _no_window(backbone)
    sites, positions = _self_attention(backbone), backbone.config.positions
    if set(rows) != set(sites):
        odd = sorted(set(rows) ^ set(sites))
        raise InputError(f"expected a prefix at {sites[0]} and the like in every layer and nowhere else, as PEFT's, got a difference at "
                         f"{', '.join(odd)}; train it with sites=({sites[0].replace('.0.', '.*.')!r},)")
    if config.shift != _shifted(backbone):
        raise InputError(f"expected a prefix with shift={_shifted(backbone)}, as PEFT computes it with {positions} positions, got "
                         f"shift={config.shift}; train it with shift={_shifted(backbone)}")
    length, heads, head_dim = rows[sites[0]][0].shape
    whole = np.zeros((length, len(sites), 2, heads, head_dim), np.float32)
    pairs = _pairs(backbone, len(sites))
    taken: dict[int, str] = {}
    for site, pair in zip(sites, pairs, strict=True):
        both = np.stack(rows[site], axis=1)
        if pair in taken and not np.array_equal(whole[:, pair], both):
            raise InputError(f"expected {taken[pair]} and {site} with the same rows, since PEFT gives an encoder-decoder's layers l and l + L/2 "
                             "one pair of them, got different ones; PEFT has no form for that")
        whole[:, pair] = both
        taken[pair] = site
    return {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": length, "num_layers": len(sites), "num_attention_heads": heads,
            "token_dim": heads * head_dim, "num_transformer_submodules": 2 if backbone.kind == "encoder-decoder" else 1,
            "encoder_hidden_size": heads * head_dim, "prefix_projection": False}, {KEY: whole.reshape(length, -1)}


# ------------------------------------------------------------ prompt
def entry(backbone: Backbone) -> str:
    """Where the input enters."""
    return "decoder_input" if backbone.kind == "decoder" else "encoder_input"


def read_prompt(raw: Mapping[str, Any], tensors: Tensors, path: Path, label: str, backbone: Backbone) -> tuple[Prompt, Arrays]:
    """The configuration and the rows of a PEFT prompt."""
    length, width = (peft_config.number(raw, key, path) for key in ("num_virtual_tokens", "token_dim"))
    copies = raw.get("num_transformer_submodules") or (2 if backbone.kind == "encoder-decoder" else 1)
    if width != backbone.config.d_model:
        raise InputError(f"expected token_dim {backbone.config.d_model} in {path} for this backbone, got {width}; use the backbone it was "
                         "trained on")
    if copies not in (1, 2) or (copies == 2 and backbone.kind != "encoder-decoder"):
        raise InputError(f"expected num_transformer_submodules 1 in {path} for this backbone, got {copies}; use the backbone it was trained on")
    whole = tensors.take(KEY, (copies * length, width))
    tensors.done()
    if copies == 2:
        warnings.warn(f"{path} has {length} rows for the decoder that PEFT saves and never reads; they are not brought in", UserWarning,
                      stacklevel=5)
    site = entry(backbone)
    return Prompt(label=label, length=length, start="normal", sites=(site,)), {f"{site}.rows": whole[:length]}


def write_prompt(parameters: Arrays, backbone: Backbone) -> tuple[dict[str, Any], Arrays]:
    """The configuration and the tensor of a PEFT prompt that computes the same."""
    site, c = entry(backbone), backbone.config
    if set(parameters) != {f"{site}.rows"}:
        raise InputError(f"expected a prompt at {site} alone, as PEFT's, got {', '.join(sorted(parameters))}; train it there")
    rows = parameters[f"{site}.rows"]
    return {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": len(rows), "token_dim": rows.shape[1], "num_transformer_submodules": 1,
            "num_layers": c.num_layers or c.num_decoder_layers, "num_attention_heads": c.num_heads}, {KEY: rows}

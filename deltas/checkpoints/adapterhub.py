"""AdapterHub's checkpoints (the library `adapters`), in: `adapter_config.json` and `adapter.safetensors`.

The adapter's name is inside every key. Where an adapter stands in the order of residual and norm is in the configuration and not in the
keys, so that equal tensors can be different functions: each flag is read or refused.

    seq_bn (Pfeiffer)        original_ln_before      y' = y + s · f(norm(y + residual)), without norm in blocks that put it first
    double_seq_bn (Houlsby)  not original_ln_before  y' = y + s · f(y)
    par_bn (parallel)        is_parallel             y' = y + s · f(residual): the sublayer's input in blocks that put the norm last
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deltas.backbones.loading import Backbone
from deltas.bank import Solution
from deltas.checkpoints import adapterhub_config, adapterhub_types
from deltas.checkpoints.names import Names
from deltas.checkpoints.reading import Tensors, read_config, read_tensors
from deltas.checkpoints.solutions import solution_of
from deltas.errors import InputError
from deltas.types import DeltaType

CONFIG, SAFE, PICKLED = "adapter_config.json", "adapter.safetensors", "pytorch_adapter.bin"
HEADS = ("head_config.json", "model_head.safetensors", "pytorch_model_head.bin")


def load_adapterhub(folder: str | Path, backbone: Backbone, *, task: str | None = None, seed: int = 0, label: str | None = None,
                    allow_pickle: bool = False, without_head: bool = False) -> Solution:
    """The delta in an AdapterHub checkpoint, on the backbone it was trained on.

    Bottleneck adapters (Pfeiffer, Houlsby, parallel), LoRA, and prefix, flat or with its network, which is folded into the rows. θ0 is 0, so
    that θ is the file's tensors.

    Args:
        folder: with `adapter_config.json` and `adapter.safetensors`.
        backbone: whose names and shapes the checkpoint must have.
        task: what the solution is called in a bank; the adapter's name where not given.
        seed: its number there.
        label: of the delta; the type's name where not given.
        allow_pickle: read `pytorch_adapter.bin` where there are no safetensors, weights alone, with PyTorch. `adapters` 1.3 writes a prefix
            in no other way, since it names one tensor several times.
        without_head: leave out the prediction head that was saved beside the adapter, which is refused otherwise.

    Raises:
        InputError: a flag that makes another function and is not built, by its name; tensors that are missing, left over or of another
            shape, all of them; a pickle; a prediction head; a damaged file.

    Warns:
        UserWarning: keys of the configuration that are not known.

    Example:
        >>> delta = deltas.load_adapterhub("adapter_folder/", backbone)
        >>> logits = backbone.logits(batch, delta)
    """
    folder = Path(folder)
    raw, path = read_config(folder, "config"), folder / CONFIG
    if backbone.family not in adapterhub_types.PLACES:
        raise InputError(f"expected a backbone of {', '.join(adapterhub_types.PLACES)} for an AdapterHub checkpoint, got {backbone.family}; "
                         "choose another")
    check_heads(folder, without_head)
    values = read_tensors(folder, SAFE, PICKLED, allow_pickle=allow_pickle)
    found, parameters = interpret(raw, values, path, label or "", backbone)
    name = str(raw.get("name"))
    origin = {"format": "adapterhub", "folder": str(folder), "name": name, "version": raw.get("version")}
    return solution_of(backbone, found, parameters, task=name if task is None else task, seed=seed, provenance={"checkpoint": origin})


def check_heads(folder: Path, without_head: bool) -> None:
    """Refuse a prediction head beside the adapter, unless it is to be left out."""
    heads = [name for name in HEADS if (folder / name).exists()]
    if heads and not without_head:
        raise InputError(f"expected an adapter alone in {folder}, got a prediction head beside it ({', '.join(heads)}), which no delta holds; "
                         "leave it out with without_head=True")


def interpret(raw: Mapping[str, Any], values: Mapping[str, np.ndarray], path: Path, label: str,
              backbone: Backbone) -> tuple[DeltaType, dict[str, np.ndarray]]:
    """The configuration and the parameters that a checkpoint's settings and tensors are on the backbone; `path` is what errors name."""
    architecture, config = adapterhub_config.read(raw, path)
    names = Names.of(backbone)
    prefix = "transformer." if backbone.family == "t5" else names.prefix  # that of T5's class with flexible heads
    tensors, name = Tensors({key.removeprefix(prefix): value for key, value in values.items()}, path.parent), str(raw.get("name"))
    if architecture is None:
        return adapterhub_types.bottleneck(config, tensors, names, path, name, label, backbone)
    if architecture == "lora":
        return adapterhub_types.lora(config, tensors, names, path, name, label, backbone, str(raw.get("version", "")))
    return adapterhub_types.prefix(config, tensors, names, path, name, label, backbone)

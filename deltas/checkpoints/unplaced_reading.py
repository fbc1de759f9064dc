"""Adapters read without their backbone, from the folders of PEFT and AdapterHub.

What would change the mathematics is refused by its name, as with a backbone; shapes that only the backbone could tell are not compared with
anything. No tensor is passed over.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from deltas.checkpoints import adapterhub, adapterhub_config, peft, peft_config, peft_lora
from deltas.checkpoints.adapterhub_types import lora_sizes
from deltas.checkpoints.peft_modules import COPY, feedforward
from deltas.checkpoints.peft_rows import KEY
from deltas.checkpoints.reading import Tensor, Tensors, find_tensors, read_config
from deltas.checkpoints.unplaced import Piece, Unplaced, in_order
from deltas.errors import InputError

KINDS = {"LORA": "lora", "IA3": "ia3", "LN_TUNING": "full", "PREFIX_TUNING": "prefix", "PROMPT_TUNING": "prompt"}
NAME = "adapter"
"""The name that every AdapterHub adapter goes by here, so that two of them have the same keys."""
POOL = ".prefix_tuning.pool."
"""Where a pickle names the one prefix again, in every layer."""


def read_unplaced(folder: str | Path, *, allow_pickle: bool = False, without_head: bool = False) -> Unplaced:
    """The adapter in a folder of PEFT's or AdapterHub's, without its backbone.

    Args:
        folder: with `adapter_config.json` and safetensors.
        allow_pickle: read a pickle where there are no safetensors, weights alone, with PyTorch.
        without_head: leave out the prediction head that was saved with the adapter.

    Raises:
        InputError: what `load_checkpoint` refuses; what needs the backbone (DoRA, fused modules of AdapterHub's LoRA); NaN or infinity, by file
            and tensor.

    Example:
        adapter = deltas.read_unplaced("adapters/sst2")
        a, b = adapter.factors["encoder.layer.0.attention.self.query"]
    """
    folder = Path(folder)
    raw = read_config(folder)
    if "peft_type" in raw:
        found = _peft(raw, folder, allow_pickle, without_head)
    elif "config" in raw:
        adapterhub.check_heads(folder, without_head)
        found = _adapterhub(raw, folder, allow_pickle)
    else:
        raise InputError(f"expected a peft_type or a config in {folder / peft.CONFIG}, got neither; it is of another library")
    found = replace(found, pieces=in_order(found.pieces))
    found.check_finite()
    return found


# ------------------------------------------------------------ PEFT
def _peft(raw: Mapping[str, Any], folder: Path, allow_pickle: bool, without_head: bool) -> Unplaced:
    path = folder / peft.CONFIG
    kind = peft_config.check(raw, path, without_head=without_head)
    if raw.get("use_dora"):
        raise InputError(f"expected use_dora unset in {path}, to read it without its backbone, got {raw['use_dora']!r}, which divides by the "
                         "lengths of the backbone's weights; give the backbone")
    values, files = find_tensors(folder, peft.SAFE, peft.PICKLED, allow_pickle=allow_pickle)
    tensors = Tensors(peft_config.headless(raw, values, without_head=without_head), folder)
    keep: dict[str, Any] = {"peft_type": kind}
    if kind == "LORA":
        pieces = _peft_lora(raw, tensors, path)
        keep = {}
    elif kind in ("IA3", "LN_TUNING"):
        fits = peft_config.targets(raw, path) or (lambda name: True)
        end = ".ia3_l" if kind == "IA3" else COPY
        chosen = {key: key.removeprefix(peft_config.BASE) for key in tensors.values}
        chosen = {key: name for key, name in chosen.items() if end in name and fits(name.partition(end)[0])}
        entering = feedforward(raw.get("feedforward_modules"), path) if kind == "IA3" else None
        pieces = {}
        for key, name in chosen.items():
            shape = tensors.values[key].shape
            if entering is not None:
                size = int(np.prod(shape))
                shape = (1, size) if entering(name.partition(end)[0]) else (size, 1)
            pieces[name] = Piece(key, tensors.take(key, shape), start=float(kind == "IA3"))
    else:
        keep |= {key: raw[key] for key in sorted(peft_config.READ[kind] | {"task_type"}) if raw.get(key) is not None}
        length = peft_config.number(raw, "num_virtual_tokens", path)
        found = tensors.values.get(KEY)
        whole = (raw.get("num_transformer_submodules") or 1) if kind == "PROMPT_TUNING" else 1
        pieces = {KEY: Piece(KEY, tensors.take(KEY, (whole * length, *(found.shape[1:] if found is not None else ()))))}
    tensors.done("save the whole adapter again, or give its backbone")
    if not pieces:
        raise InputError(f"expected the tensors of {raw.get('target_modules')!r} beside {path}, got none; save the adapter again")
    origin = {"format": "peft", "folder": str(folder), "task_type": raw.get("task_type"), "base_model": raw.get("base_model_name_or_path")}
    return Unplaced(folder=folder, kind=KINDS[kind], library="peft", pieces=pieces, raw=keep, base=_base(raw.get("base_model_name_or_path")),
                    files=(path, *files), provenance={"checkpoint": origin})


def _peft_lora(raw: Mapping[str, Any], tensors: Tensors, path: Path) -> dict[str, Piece]:
    rank, alpha = peft_config.number(raw, "r", path), raw.get("lora_alpha", 8)
    fits = peft_config.targets(raw, path) or (lambda name: True)
    pieces: dict[str, Piece] = {}
    present = dict.fromkeys(key.removeprefix(peft_config.BASE).rpartition(".lora_")[0] for key in tensors.values
                            if key.endswith((".lora_A.weight", ".lora_B.weight")))
    for module in filter(fits, present):
        r = peft_config.number({"rank_pattern": peft_config.overridden(raw.get("rank_pattern"), rank, module, "rank_pattern", path)},
                               "rank_pattern", path)
        own = peft_lora.alpha_of(peft_config.overridden(raw.get("alpha_pattern"), alpha, module, "alpha_pattern", path), path)
        a, b = (f"{peft_config.BASE}{module}.lora_{kind}.weight" for kind in "AB")
        pieces[f"{module}.a"] = Piece(a, _matrix(tensors, a, rows=r), turned=True)
        pieces[f"{module}.b"] = Piece(b, _matrix(tensors, b, columns=r), turned=True, scale=own / (r**0.5 if raw.get("use_rslora") else r))
    return pieces


def _matrix(tensors: Tensors, key: str, *, rows: int | None = None, columns: int | None = None) -> Tensor:
    """A matrix of which one size is known."""
    found = tensors.values.get(key)
    shape = found.shape if found is not None and found.ndim == 2 else (1, 1)
    return tensors.take(key, (rows or shape[0], columns or shape[1]))


def _base(name: Any) -> str | None:
    return str(name).rstrip("/") if name else None


# ------------------------------------------------------------ AdapterHub
def _adapterhub(raw: Mapping[str, Any], folder: Path, allow_pickle: bool) -> Unplaced:
    path, name, version = folder / adapterhub.CONFIG, str(raw.get("name")), str(raw.get("version", ""))
    architecture, config = adapterhub_config.read(raw, path)
    values, files = find_tensors(folder, adapterhub.SAFE, adapterhub.PICKLED, allow_pickle=allow_pickle)
    tensors = Tensors(values, folder)
    word = {None: "adapters", "lora": "loras"}.get(architecture, "prefix_tunings")
    own = [key for key in values if f"{word}.{name}." in key]
    kept: dict[str, Any] = {"name": NAME, "version": version or "0",
                            "config": {key: config[key] for key in sorted(adapterhub_config.MEANING[architecture]) if key in config}}
    pieces: dict[str, Piece] = {}
    if architecture == "lora":
        (r, alpha), kept = lora_sizes(config, version, path), {}
        for module in dict.fromkeys(key.rpartition(".loras.")[0] for key in own):
            a, b = (f"{module}.loras.{name}.lora_{kind}" for kind in "AB")
            if (found := values.get(a)) is not None and found.shape[0] != r:
                raise InputError(f"expected one A of rank {r} in {a} of {folder}, to read it without its backbone, got {found.shape[0]} rows of "
                                 "a module that is fused; give the backbone")
            pieces[f"{module}.a"] = Piece(a, _matrix(tensors, a, rows=r), turned=True)
            pieces[f"{module}.b"] = Piece(b, _matrix(tensors, b, columns=r), turned=True, scale=alpha / r)
    else:
        whole = {key[key.index(f"{word}.{name}.") :]: key for key in own if POOL not in key}
        for key in own:
            value, end = tensors.take(key, values[key].shape), key[key.index(f"{word}.{name}.") :]
            if POOL not in key:
                pieces[key.replace(f"{word}.{name}.", f"{word}.{NAME}.")] = Piece(key, value)
            elif not np.array_equal(value, values[whole[end]] if end in whole else np.zeros(0)):
                tensors.faults.append(f"{key}, which differs from {whole.get(end, 'that of the whole model, which is not there')}")
    tensors.done("save the whole adapter again, or give its backbone")
    if not pieces:
        raise InputError(f"expected the tensors of the adapter {name!r} beside {path}, got none; save the adapter again")
    kind = {None: "adapter", "lora": "lora"}.get(architecture, "prefix")
    origin = {"format": "adapterhub", "folder": str(folder), "name": name, "version": raw.get("version")}
    return Unplaced(folder=folder, kind=kind, library="adapterhub", pieces=pieces, raw=kept, base=_base(raw.get("model_name")),
                    files=(path, *files), provenance={"checkpoint": origin})

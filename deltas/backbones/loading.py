"""From a Hugging Face folder or hub id to a frozen backbone: configuration, safetensors (one file or shards), tokenizer."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from deltas.backbones import t5
from deltas.errors import InputError
from deltas.files import read_json


@dataclass(frozen=True, kw_only=True)
class Family:
    """How one family of transformers is read: its configuration, its module, and its weight-name table."""

    config: Callable[[Mapping[str, Any], frozenset[str]], Any]
    module: Callable[..., nnx.Module]
    names: Callable[[Any], dict[str, str]]
    redundant: tuple[str, ...] = ()
    """Tensors that a file may carry and no module reads."""


FAMILIES: dict[str, Family] = {
    "t5": Family(config=t5.T5Config.from_json, module=t5.T5, names=t5.weight_names, redundant=t5.REDUNDANT),
}


@dataclass(frozen=True, eq=False)
class Backbone:
    """A frozen pretrained transformer.

    `module` is an ordinary `flax.nnx` module whose sites take deltas; `fingerprint` is the SHA-256 of its weights, which every
    solution carries so that banks of different backbones are never mixed.
    """

    name: str
    family: str
    config: Any
    module: Any
    tokenizer: Any
    fingerprint: str

    def logits(self, batch: Mapping[str, Any], delta: Any = None) -> jax.Array:
        """Float32 logits [B, T, vocabulary].

        Args:
            batch: int arrays `input_ids` [B, S], `attention_mask` [B, S], `decoder_input_ids` [B, T].
            delta: a `deltas.Solution` trained on this backbone, or None for the backbone alone.
        """
        module = self.module if delta is None else _attached(self, delta)
        arrays = (jnp.asarray(batch[name]) for name in ("input_ids", "attention_mask", "decoder_input_ids"))
        return _forward(*nnx.split(module), *arrays)


@jax.jit(static_argnums=0)
def _forward(graphdef: Any, state: Any, *arrays: jax.Array) -> jax.Array:
    return nnx.merge(graphdef, state)(*arrays)


def _attached(backbone: Backbone, delta: Any) -> Any:
    from deltas.functional import Attached  # the functional view stands on backbones; this one call looks up to it

    attached = Attached.of(backbone, delta.config, theta0=delta.theta0)
    attached.check(delta)
    return attached.module(jnp.asarray(delta.theta), attached.frozen)


def load_backbone(source: str | Path, *, dtype: str = "float32") -> Backbone:
    """The backbone in a Hugging Face folder, or of a hub id (downloaded once), with its tokenizer.

    Args:
        source: a folder with `config.json`, `model.safetensors` (or shards with their index) and tokenizer files; a hub id such as
            `google/t5-v1_1-base`; or `tiny`, the small T5 that comes with the package.
        dtype: `float32` or `bfloat16`, for the weights and the computation.

    Raises:
        InputError: nothing there, no safetensors, a family that is not known, a tensor missing, left over or of a wrong shape.
    """
    folder = find_folder(source)
    raw = read_json(folder / "config.json")
    kind = raw.get("model_type") if isinstance(raw, dict) else None
    if kind not in FAMILIES:
        raise InputError(f"expected a backbone of a known family ({', '.join(sorted(FAMILIES))}), got model_type {kind!r} in "
                         f"{folder / 'config.json'}; choose another backbone")
    if dtype not in ("float32", "bfloat16"):
        raise InputError(f"expected dtype float32 or bfloat16, got {dtype!r}; choose one of them")
    family = FAMILIES[kind]
    files = weight_files(folder)
    config = family.config(raw, frozenset(files))
    module, fingerprint = build(family, config, _tensors(files), files, folder, jnp.dtype(dtype))
    return Backbone(str(source), kind, config, module, _tokenizer(folder), fingerprint)


def find_folder(source: str | Path) -> Path:
    """The local folder of a backbone: the package's own, a path, or a hub id fetched through huggingface_hub."""
    if str(source) == "tiny":
        return Path(__file__).parent.parent / "data" / "tiny_t5"
    folder = Path(source)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise InputError(f"expected a Hugging Face folder with a config.json, got {folder} without one; give the model's folder")
        return folder
    if str(source).count("/") > 1 or str(source).startswith((".", "/", "~")) or folder.exists():
        raise InputError(f"expected a backbone folder or hub id, got {str(source)!r}, which is no folder; check the path")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(source), allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt"]))
    except Exception as error:  # the hub's client raises a dozen kinds: no network, no such id, no access
        raise InputError(f"expected a backbone folder or a hub id that can be fetched, got {str(source)!r} "
                         f"({type(error).__name__}); check the path or the network") from error


def weight_files(folder: Path) -> dict[str, Path]:
    """Tensor name → the safetensors file that holds it."""
    from safetensors import SafetensorError, safe_open

    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        shards = [single]
    elif index.is_file():
        table = read_json(index)
        if not isinstance(table, dict) or not isinstance(table.get("weight_map"), dict):
            raise InputError(f"expected a weight_map in {index}, got none; download it again")
        shards = sorted({folder / name for name in table["weight_map"].values()})
    else:
        pickled = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for p in folder.glob(pattern))
        if pickled:
            raise InputError(f"expected model.safetensors in {folder}, got the pickle {pickled[0]}, which may run code when read; "
                             "convert it to safetensors first")
        raise InputError(f"expected model.safetensors or model.safetensors.index.json in {folder}, got neither; download the weights")
    found: dict[str, Path] = {}
    for shard in shards:
        try:
            with safe_open(shard, framework="numpy") as file:
                found |= dict.fromkeys(file.keys(), shard)
        except (SafetensorError, OSError) as error:
            raise InputError(f"expected a whole safetensors file at {shard}, got '{error}'; download it again") from None
    return found


def _tensors(files: Mapping[str, Path]) -> Iterator[tuple[str, jax.Array]]:
    """Every tensor in the order of its name, so that the fingerprint is the same however the weights are cut into shards."""
    from safetensors import safe_open

    with contextlib.ExitStack() as stack:
        opened = {shard: stack.enter_context(safe_open(shard, framework="flax")) for shard in set(files.values())}  # numpy has no bfloat16
        for name in sorted(files):
            yield name, opened[files[name]].get_tensor(name)


def build(family: Family, config: Any, tensors: Iterator[tuple[str, jax.Array]], names: Mapping[str, Any], folder: Path,
          dtype: jnp.dtype) -> tuple[nnx.Module, str]:
    """The module with the file's weights, cast to `dtype`, and the fingerprint of the weights as they are in the file."""
    table = family.names(config)
    missing = sorted(set(table) - set(names))
    unknown = sorted(set(names) - set(table) - set(family.redundant))
    if missing or unknown:
        what = f"without {missing[0]} (and {len(missing) - 1} more)" if missing else f"with an unknown {unknown[0]}"
        raise InputError(f"expected the {len(table)} tensors that config.json describes, got files in {folder} {what}; "
                         "config and weights must belong together")
    graphdef, state = nnx.split(nnx.eval_shape(lambda: family.module(config, rngs=nnx.Rngs(0))))
    flat = {".".join(map(str, path)): (path, variable) for path, variable in nnx.to_flat_state(state)}
    filled, digest = {}, hashlib.sha256(json.dumps(sorted(table)).encode())
    for name, tensor in tensors:
        if name not in table:
            continue
        digest.update(name.encode() + np.asarray(tensor).tobytes())
        path, variable = flat[table[name]]
        value = tensor.T if path[-1] == "kernel" else tensor
        if value.shape != variable.shape:
            raise InputError(f"expected {name} of shape {variable.shape[::-1] if path[-1] == 'kernel' else variable.shape} from "
                             f"config.json, got {tensor.shape} in {folder}; config and weights must belong together")
        filled[path] = variable.replace(value.astype(dtype))
    state = nnx.from_flat_state(list(filled.items()))
    return nnx.merge(graphdef, state), digest.hexdigest()[:16]


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    wanted = ("tokenizer.json", "spiece.model", "tokenizer.model", "vocab.json", "vocab.txt")
    if not any((folder / name).is_file() for name in wanted):  # transformers would make an empty one from config.json
        raise InputError(f"expected a tokenizer in {folder} ({' or '.join(wanted)}), got none; download it too")
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises many kinds for a missing or broken tokenizer
        raise InputError(f"expected tokenizer files in {folder}, got '{str(error).splitlines()[0]}'; download them too") from error

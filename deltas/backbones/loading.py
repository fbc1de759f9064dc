"""From a Hugging Face folder or hub id to a frozen backbone: configuration, safetensors (one file or shards), tokenizer."""

import contextlib
import fnmatch
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from deltas.backbones import bart, bert, gpt2, llama, t5
from deltas.backbones.architecture import Architecture, Kind
from deltas.backbones.family import Family
from deltas.backbones.transformer import Transformer
from deltas.errors import InputError
from deltas.files import read_json, weight_map

FAMILIES: dict[str, Family] = {
    "bart": bart.FAMILY, "bert": bert.BERT, "gpt2": gpt2.FAMILY, "llama": llama.LLAMA, "mistral": llama.MISTRAL, "qwen2": llama.QWEN2,
    "roberta": bert.ROBERTA, "t5": t5.FAMILY,
}


@dataclass(frozen=True, eq=False)
class Backbone:
    """A frozen pretrained transformer.

    `module` is an ordinary `flax.nnx` module whose sites take deltas; `fingerprint` is the SHA-256 of its weights, which every
    solution carries so that banks of different backbones are never mixed. `before` and `after` are the token ids around an input:
    BERT's [CLS] and [SEP], T5's end, a decoder's line break between prompt and answer.
    """

    name: str
    family: str
    config: Architecture
    module: Any
    tokenizer: Any
    fingerprint: str
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

    def logits(self, batch: Mapping[str, Any], delta: Any = None) -> jax.Array:
        """Float32 logits [B, T, vocabulary]; of a decoder or an encoder alone [B, S, vocabulary], or its hidden states without a head.

        Args:
            batch: int arrays `input_ids` [B, S], `attention_mask` [B, S], and `decoder_input_ids` [B, T] for an encoder-decoder.
            delta: a `deltas.Solution` on this backbone, a list with one for each row (None for a row without), or None for the backbone as
                it is. Solutions of one type switch from call to call without compiling again.
        """
        if isinstance(delta, list | tuple):
            from deltas.compose import logits_by_row  # what follows stands on backbones; these calls look up to it

            return logits_by_row(self, batch, delta)
        module = self.module if delta is None else _attached(self, delta)
        return _forward(*nnx.split(module), *self.inputs(batch))

    @property
    def wanted(self) -> tuple[str, ...]:
        """The arrays of a batch that the backbone reads."""
        return ("input_ids", "attention_mask", *(("decoder_input_ids",) if self.kind == "encoder-decoder" else ()))

    def inputs(self, batch: Mapping[str, Any]) -> list[jax.Array]:
        """Those arrays, in order; a missing one is refused."""
        missing = [name for name in self.wanted if name not in batch]
        if missing:
            raise InputError(f"expected {', '.join(self.wanted)} in a batch for {self.name}, got no {missing[0]}; add it")
        return [jnp.asarray(batch[name]) for name in self.wanted]

    @property
    def kind(self) -> Kind:
        """encoder-decoder, decoder or encoder."""
        return self.config.kind


@jax.jit(static_argnums=0)
def _forward(graphdef: Any, state: Any, *arrays: jax.Array) -> jax.Array:
    return nnx.merge(graphdef, state)(*arrays)


def _attached(backbone: Backbone, delta: Any) -> Any:
    from deltas.functional import Attached

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
    if dtype not in ("float32", "bfloat16"):
        raise InputError(f"expected dtype float32 or bfloat16, got {dtype!r}; choose one of them")
    kind, config, files = read_architecture(folder)
    module, fingerprint = build(FAMILIES[kind], config, _tensors(files), files, folder, jnp.dtype(dtype))
    tokenizer = _tokenizer(folder)
    return Backbone(str(source), kind, config, module, tokenizer, fingerprint, *_around(config, tokenizer))


def read_architecture(folder: Path) -> tuple[str, Architecture, dict[str, tuple[str, Path]]]:
    """The family's name and the architecture of a Hugging Face folder, and its tensors: name without the base prefix → name and file there."""
    raw = read_json(folder / "config.json")
    kind = raw.get("model_type") if isinstance(raw, dict) else None
    if kind not in FAMILIES:
        raise InputError(f"expected a backbone of a known family ({', '.join(sorted(FAMILIES))}), got model_type {kind!r} in "
                         f"{folder / 'config.json'}; choose another backbone")
    family, files = FAMILIES[kind], {}
    for name_there, path in weight_files(folder).items():
        name = name_there.removeprefix(family.prefix)
        if name in files:
            raise InputError(f"expected one tensor {name} in {folder}, got both {files[name][0]} and {name_there}; remove one")
        files[name] = (name_there, path)
    return kind, family.config(raw, frozenset(files)), files


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
        shards = sorted({folder / name for name in weight_map(index).values()})
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


def _tensors(files: Mapping[str, tuple[str, Path]]) -> Iterator[tuple[str, jax.Array]]:
    """Every tensor in the order of its name, so that the fingerprint is the same however the weights are cut into shards."""
    from safetensors import safe_open

    with contextlib.ExitStack() as stack:
        shards = {shard for _, shard in files.values()}
        opened = {shard: stack.enter_context(safe_open(shard, framework="flax")) for shard in shards}  # numpy has no bfloat16
        for name in sorted(files):
            name_there, shard = files[name]
            yield name, opened[shard].get_tensor(name_there)


def build(family: Family, config: Architecture, tensors: Iterator[tuple[str, jax.Array]], names: Iterable[str], folder: Path,
          dtype: jnp.dtype) -> tuple[Transformer, str]:
    """The module with the file's weights, cast to `dtype`, and the fingerprint of the weights as they are in the file."""
    table = family.names(config)
    copies = {name: table[whole] for name, whole in family.copies.items() if name in names and name not in table and whole in table}
    missing = sorted(set(table) - set(names))
    unknown = sorted(n for n in set(names) - set(table) if not any(fnmatch.fnmatchcase(n, glob) for glob in family.redundant))
    if missing or unknown:
        what = f"without {missing[0]} (and {len(missing) - 1} more)" if missing else f"with an unknown {unknown[0]}"
        raise InputError(f"expected the {len(table)} tensors that config.json describes, got files in {folder} {what}; "
                         "config and weights must belong together")
    graphdef, state = nnx.split(nnx.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(0))))
    flat = {".".join(map(str, path)): (path, variable) for path, variable in nnx.to_flat_state(state)}
    filled, digest = {}, hashlib.sha256(json.dumps(sorted(table)).encode())
    held: dict[str, jax.Array] = {}
    for name, tensor in tensors:
        if name in copies:
            held[name] = tensor.astype(dtype)
        if name not in table:
            continue
        digest.update(name.encode() + np.asarray(tensor).tobytes())
        ours = table[name]
        for path_name, value in zip(*((ours,), (tensor,)) if isinstance(ours, str) else (ours, jnp.split(tensor, len(ours), axis=-1))):
            path, variable = flat[path_name]
            turned = path[-1] == "kernel" and family.transposed
            value = value.T if turned else value.reshape(-1) if path[0] == "head_bias" else value
            if value.shape != variable.shape:
                raise InputError(f"expected {name} of shape {variable.shape[::-1] if turned else variable.shape} from "
                                 f"config.json, got {tensor.shape} in {folder}; config and weights must belong together")
            filled[path] = variable.replace(value.astype(dtype))
    for name, copy in held.items():
        if not np.array_equal(copy, filled[flat[str(copies[name])][0]][...]):
            raise InputError(f"expected {name} to be a copy of the tensor it is tied to, got another in {folder}; choose a backbone that "
                             "ties them")
    state = nnx.from_flat_state(list(filled.items()))
    return nnx.merge(graphdef, state), digest.hexdigest()[:16]


def _around(config: Architecture, tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The token ids that open and close an input."""
    if config.kind == "encoder":
        if None in (tokenizer.cls_token_id, tokenizer.sep_token_id):
            raise InputError("expected a tokenizer with cls and sep tokens for an encoder, got none; restore tokenizer_config.json")
        return (tokenizer.cls_token_id,), (tokenizer.sep_token_id,)
    opening = tuple(tokenizer("")["input_ids"])  # what the tokenizer puts around nothing: <s> </s> for BART, <s> for Llama
    if config.kind == "encoder-decoder":
        return tuple(i for i in opening if i != config.eos_token_id), (config.eos_token_id,)
    return opening[:1], tuple(tokenizer("\n", add_special_tokens=False)["input_ids"])


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    wanted = ("tokenizer.json", "spiece.model", "tokenizer.model", "vocab.json", "vocab.txt")
    if not any((folder / name).is_file() for name in wanted):  # transformers would make an empty one from config.json
        raise InputError(f"expected a tokenizer in {folder} ({' or '.join(wanted)}), got none; download it too")
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises many kinds for a missing or broken tokenizer
        raise InputError(f"expected tokenizer files in {folder}, got '{str(error).splitlines()[0]}'; download them too") from error

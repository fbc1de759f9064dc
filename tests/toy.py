"""A random tiny T5 as Hugging Face files, and small tasks for it.

The weights are drawn by numpy under the Hugging Face names, so that they are the same on every machine and version of JAX, which the golden
files need; no PyTorch is involved.
"""

import json
import math
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from deltas.backbones import t5
from deltas.tasks import Example, Task

WORDS = [f"{c}{v}" for c in "bdfgklmnprstvz" for v in "aeiou"][:57]
VOCABULARY = ["<pad>", "</s>", "<unk>", *WORDS, "yes", "no", "maybe", ":"]

V1_0 = {"feed_forward_proj": "relu", "tie_word_embeddings": True}
V1_1 = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
FLAN = {**V1_1, "num_decoder_layers": 1, "d_kv": 4, "num_heads": 3, "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 20, "layer_norm_epsilon": 1e-5}
SHALLOW = {"num_layers": 1, "num_decoder_layers": 1}
FAMILY = {"v1.0": V1_0, "v1.1": V1_1, "flan": FLAN}


def config_json(**changes: Any) -> dict[str, Any]:
    return {"model_type": "t5", "vocab_size": len(VOCABULARY), "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2,
            "relative_attention_num_buckets": 16, "relative_attention_max_distance": 32, "pad_token_id": 0, "eos_token_id": 1,
            "decoder_start_token_id": 0, "is_encoder_decoder": True, "dropout_rate": 0.0, **V1_1, **changes}


def config_of(**changes: Any) -> t5.T5Config:
    return t5.T5Config.from_json(config_json(**changes))


def weights(config: t5.T5Config, seed: int = 0) -> dict[str, np.ndarray]:
    """A tensor for every Hugging Face name, large enough that attention, positions and norms all matter."""
    state = nnx.to_flat_state(nnx.state(nnx.eval_shape(lambda: t5.T5(config, rngs=nnx.Rngs(0)))))
    shapes = {".".join(map(str, path)): variable.shape for path, variable in state}
    rng, drawn = np.random.default_rng(seed), {}
    for name, ours in sorted(t5.weight_names(config).items()):
        shape = shapes[ours][::-1] if ours.endswith("kernel") else shapes[ours]
        noise = rng.standard_normal(shape)
        if ours.endswith("scale"):
            drawn[name] = 1 + 0.2 * noise
        elif ours.endswith("kernel"):
            drawn[name] = noise / math.sqrt(shape[1]) * (config.d_kv**-0.25 if ours[-8:-7] in "qk" else 1)
        else:  # a tied table is also the head: a large one would only echo the last token
            drawn[name] = 0.03 * noise if config.tied and name == "shared.weight" else noise
    return {name: np.ascontiguousarray(value, np.float32) for name, value in drawn.items()}


def write_tokenizer(folder: Path) -> None:
    model = {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(VOCABULARY)}, "unk_token": "<unk>"}
    special = [{"id": i, "content": VOCABULARY[i], "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
                "special": True} for i in range(3)]
    whole = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None,
             "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None, "decoder": None, "model": model}
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}))


def write_weights(folder: Path, tensors: dict[str, np.ndarray], *, shards: int = 1, dtype: str = "float32") -> None:
    from safetensors.flax import save_file

    names = sorted(tensors, key=lambda name: hash_like(name)) if shards > 1 else sorted(tensors)
    parts = [names[i::shards] for i in range(shards)]
    where = {}
    for i, part in enumerate(parts):
        name = "model.safetensors" if shards == 1 else f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        save_file({n: jnp.asarray(tensors[n], dtype) for n in part}, folder / name)
        where |= dict.fromkeys(part, name)
    if shards > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


def hash_like(name: str) -> int:
    """Some order that is not the alphabetical one."""
    return sum(map(ord, name)) % 13


def write_folder(folder: Path, *, seed: int = 0, shards: int = 1, dtype: str = "float32", **changes: Any) -> Path:
    """A Hugging Face folder of a random tiny T5."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config_json(**changes)))
    write_weights(folder, weights(config_of(**changes), seed), shards=shards, dtype=dtype)
    write_tokenizer(folder)
    return folder


def texts(rng: np.random.Generator, count: int, lengths: tuple[int, int]) -> list[list[str]]:
    return [[str(w) for w in rng.choice(WORDS, int(rng.integers(*lengths)))] for _ in range(count)]


def make_task(name: str, rows: tuple[tuple[str, str], ...], metric: str, labels: tuple[str, ...] | None, split: int) -> Task:
    examples = tuple(Example(text, (answer,)) for text, answer in rows)
    return Task(name=name, train=examples[: 2 * split], dev=examples[2 * split : 3 * split], test=examples[3 * split :], metric=metric,
                labels=labels)


def classify(name: str = "has_ba", *, lengths: tuple[int, int] = (3, 7), rows: int = 40, seed: int = 0) -> Task:
    """Is the first word in the first half of the vocabulary?"""
    rng, half = np.random.default_rng(seed), set(WORDS[: len(WORDS) // 2])
    pairs = tuple((" ".join(t), "yes" if t[0] in half else "no") for t in texts(rng, rows, lengths))
    return make_task(name, pairs, "accuracy", ("no", "yes"), rows // 4)


def copy(name: str = "first_word", *, lengths: tuple[int, int] = (3, 12), rows: int = 40, seed: int = 1) -> Task:
    """Write the first word, or the first two, again."""
    pairs = tuple((" ".join(t), " ".join(t[: 1 + i % 2])) for i, t in enumerate(texts(np.random.default_rng(seed), rows, lengths)))
    return make_task(name, pairs, "exact_match", None, rows // 4)


def constant(name: str = "always_maybe", *, lengths: tuple[int, int] = (2, 20), rows: int = 36, seed: int = 2) -> Task:
    """Always the same answer: what every delta learns first."""
    pairs = tuple((" ".join(t), "maybe") for t in texts(np.random.default_rng(seed), rows, lengths))
    return make_task(name, pairs, "exact_match", None, rows // 4)


def lora_names(model: Any) -> dict[str, str]:
    """PEFT's parameter name → ours, by the table of weight names."""
    names, found = t5.weight_names(config_of(**V1_0)), {}
    for path, _ in model.named_parameters():
        for theirs, ours in (("lora_A", "a"), ("lora_B", "b")):
            if f".{theirs}." in path:
                weight = path.removeprefix("base_model.model.").split(f".{theirs}.")[0] + ".weight"
                found[path] = names[weight].removesuffix("kernel") + ours
    return found

"""Random tiny backbones of every family as Hugging Face files, and small tasks for them.

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
from deltas.backbones.architecture import Architecture
from deltas.backbones.bert import BIAS
from deltas.backbones.loading import FAMILIES
from deltas.backbones.transformer import Transformer
from deltas.tasks import Example, Task

WORDS = [f"{c}{v}" for c in "bdfgklmnprstvz" for v in "aeiou"][:57]
VOCABULARY = ["<pad>", "</s>", "<unk>", *WORDS, "yes", "no", "maybe", ":"]
MASK, NEWLINE = len(VOCABULARY), len(VOCABULARY) + 1  # of the families that need them

V1_0 = {"feed_forward_proj": "relu", "tie_word_embeddings": True}
V1_1 = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
FLAN = {**V1_1, "num_decoder_layers": 1, "d_kv": 4, "num_heads": 3, "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 20, "layer_norm_epsilon": 1e-5}
SHALLOW = {"num_layers": 1, "num_decoder_layers": 1}
FAMILY = {"v1.0": V1_0, "v1.1": V1_1, "flan": FLAN}


_ENCODER = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "hidden_act": "gelu",
            "max_position_embeddings": 64, "type_vocab_size": 2, "pad_token_id": 0, "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0}
_DECODER = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 24,
            "hidden_act": "silu", "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "pad_token_id": 0, "eos_token_id": 1,
            "bos_token_id": 1, "tie_word_embeddings": False}
OTHERS: dict[str, dict[str, Any]] = {
    "bart": {"d_model": 16, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
             "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 64, "activation_function": "gelu", "dropout": 0.0,
             "attention_dropout": 0.0, "scale_embedding": True, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2,
             "decoder_start_token_id": 1, "forced_eos_token_id": None, "is_encoder_decoder": True, "tie_word_embeddings": True},
    "bert": _ENCODER,
    "roberta": {**_ENCODER, "type_vocab_size": 1, "layer_norm_eps": 1e-5},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "activation_function": "gelu_new", "pad_token_id": 0,
             "eos_token_id": 1, "bos_token_id": 1, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "llama": {**_DECODER, "rope_parameters": {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 4.0, "low_freq_factor": 1.0,
                                              "high_freq_factor": 4.0, "original_max_position_embeddings": 16}},
    "mistral": {**_DECODER, "head_dim": 6, "sliding_window": 4},
    "qwen2": {**_DECODER, "use_sliding_window": False, "tie_word_embeddings": True},
}
MODELS = {"t5": "T5ForConditionalGeneration", "bart": "BartForConditionalGeneration", "bert": "BertForMaskedLM",
          "roberta": "RobertaForMaskedLM", "gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM",
          "qwen2": "Qwen2ForCausalLM"}
HEADLESS = "headless"
"""A change: an encoder without its masked-language head, as sentence encoders are."""


def config_json(kind: str = "t5", **changes: Any) -> dict[str, Any]:
    if kind != "t5":
        return {"model_type": kind, "vocab_size": len(VOCABULARY) + 2, **OTHERS[kind], **changes}
    return {"model_type": "t5", "vocab_size": len(VOCABULARY), "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2,
            "relative_attention_num_buckets": 16, "relative_attention_max_distance": 32, "pad_token_id": 0, "eos_token_id": 1,
            "decoder_start_token_id": 0, "is_encoder_decoder": True, "dropout_rate": 0.0, **V1_1, **changes}


def config_of(kind: str = "t5", **changes: Any) -> Architecture:
    """The architecture, as it is read from a file with all heads that the family can have."""
    if kind == "t5":
        return t5.config(config_json(**changes))
    names: set[str] = set()
    if kind in ("bert", "roberta") and not changes.get(HEADLESS):
        names.add(BIAS[kind])
    if kind == "bart":
        names.add("final_logits_bias")
    if not config_json(kind, **changes).get("tie_word_embeddings", True):
        names.add("lm_head.weight")
    return FAMILIES[kind].config(config_json(kind, **changes), frozenset(names))


def weights(config: Architecture, seed: int = 0, kind: str = "t5") -> dict[str, np.ndarray]:
    """A tensor for every Hugging Face name, large enough that attention, positions and norms all matter."""
    state = nnx.to_flat_state(nnx.state(nnx.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(0)))))
    shapes = {".".join(map(str, path)): variable.shape for path, variable in state}
    rng, drawn, family = np.random.default_rng(seed), {}, FAMILIES[kind]
    for name, paths in sorted(family.names(config).items()):
        ours, parts = (paths, 1) if isinstance(paths, str) else (paths[0], len(paths))
        shape = (*shapes[ours][:-1], shapes[ours][-1] * parts)
        shape = shape[::-1] if ours.endswith("kernel") and family.transposed else shape
        if ours == "head_bias.bias" and kind == "bart":
            shape = (1, *shape)
        noise = rng.standard_normal(shape)
        if ours.endswith("bias"):
            drawn[name] = 0.2 * noise
        elif ours.endswith("positions.table") and config.positions == "learned":
            drawn[name] = 0.9 * noise
        elif ours.endswith("scale"):
            drawn[name] = 1 + 0.2 * noise
        elif ours.endswith("kernel") and not family.transposed:
            drawn[name] = noise / math.sqrt(shape[0])
        elif ours.endswith("kernel"):
            drawn[name] = noise / math.sqrt(shape[1]) * (config.d_kv**-0.25 if ours[-8:-7] in "qk" else 1)
        else:  # a tied table is also the head: a large one would only echo the last token
            echoing = config.tied and config.num_decoder_layers and ours == "shared.table"
            drawn[name] = (0.03 if kind == "t5" else 0.1) * noise if echoing else noise
    return {name: np.ascontiguousarray(value, np.float32) for name, value in drawn.items()}


def write_tokenizer(folder: Path, kind: str = "t5") -> None:
    words = VOCABULARY if kind == "t5" else [*VOCABULARY, "<mask>", "\n"]
    model = {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(words)}, "unk_token": "<unk>"}
    special = [{"id": i, "content": words[i], "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
                "special": i != NEWLINE} for i in (0, 1, 2, *((MASK, NEWLINE) if kind != "t5" else ()))]
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    if kind in ("bert", "roberta"):
        names |= {"cls_token": "<unk>", "sep_token": "</s>", "mask_token": "<mask>"}
    whole = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None,
             "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None, "decoder": None, "model": model}
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "PreTrainedTokenizerFast", **names}))


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


def write_folder(folder: Path, kind: str = "t5", *, seed: int = 0, shards: int = 1, dtype: str = "float32", **changes: Any) -> Path:
    """A Hugging Face folder of a random tiny backbone, its tensors named as they are where it is saved with its head."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config_json(kind, **changes)))
    tensors = weights(config_of(kind, **changes), seed, kind)
    if not changes.get(HEADLESS):
        tensors = {saved_name(kind, name): value for name, value in tensors.items()}
    write_weights(folder, tensors, shards=shards, dtype=dtype)
    write_tokenizer(folder, kind)
    return folder


def saved_name(kind: str, name: str) -> str:
    """A tensor's name where the model is saved with its head."""
    return name if name.startswith(("lm_head", "cls.", "final_logits")) else FAMILIES[kind].prefix + name


def original(kind: str, **changes: Any) -> Any:
    """transformers' own model with the same weights; only where PyTorch is installed."""
    import torch
    import transformers

    fields = {k: v for k, v in config_json(kind, **changes).items() if k not in ("model_type", HEADLESS)}
    cls = getattr(transformers, "BertModel" if changes.get(HEADLESS) else MODELS[kind])
    model = cls(cls.config_class(**fields, attn_implementation="eager")).eval()
    tensors = weights(config_of(kind, **changes), 0, kind)
    head = tensors.pop("lm_head.weight", None) if kind == "t5" else None  # transformers 5 ties it whatever the configuration says
    names = {n if changes.get(HEADLESS) else saved_name(kind, n): torch.tensor(v) for n, v in tensors.items()}
    found = model.load_state_dict(names, strict=False)
    assert not found.unexpected_keys, found.unexpected_keys
    alone = {n for n, _ in model.named_parameters()} - set(names)  # what is tied is named once here
    assert all("pooler" in n for n in alone), alone
    if head is not None:
        model.lm_head.weight = torch.nn.Parameter(torch.tensor(head))
    return model


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
    names, found = t5.names(config_of(**V1_0)), {}
    for path, _ in model.named_parameters():
        for theirs, ours in (("lora_A", "a"), ("lora_B", "b")):
            if f".{theirs}." in path:
                weight = path.removeprefix("base_model.model.").split(f".{theirs}.")[0] + ".weight"
                found[path] = names[weight].removesuffix("kernel") + ours
    return found

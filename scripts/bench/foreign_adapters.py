"""`python -m deltaspace.bench.foreign_adapters MODEL --out DIR`: PEFT's adapters in and out of a subspace, on a real model.

PEFT itself makes LoRA of different ranks, scales and target modules, each in a random gauge. They are gathered without the backbone, decomposed
in product space, and points of the space are exported again: those of the sources, the mean, and others. PEFT loads each, and the model's
answers are compared with those of our own decoding on our own backbone. The same adapters in other gauges must give the same space.
"""

import json
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

import deltas
from deltas.bank import versions
from deltas.files import write_json

TEXTS = ("A man is playing a flute.", "Someone makes music on a wooden instrument, far from here.", "The stock market fell sharply on Tuesday.")
SHARED, OWN, SIZE = 4, 0.5, 0.2
"""Directions that all adapters share at a module, the size of what is an adapter's own beside them, and ‖ΔW‖ / ‖W‖."""


@dataclass(frozen=True, kw_only=True)
class ForeignAdapters:
    """Make, decompose, export, load and compare; summary.json in `out`."""

    model: Annotated[Path, tyro.conf.Positional]
    """A Hugging Face folder."""
    out: Path
    count: int = 24
    ranks: tuple[int, int] = (2, 8)
    k: int = 16
    points: int = 8
    """Sources that are exported again, beside the mean and as many other points."""
    seed: int = 0

    def run(self) -> None:
        """Compare, write, print."""
        found = compare(self.model, self.out / "adapters", count=self.count, ranks=self.ranks, k=self.k, points=self.points, seed=self.seed)
        write_json(self.out / "summary.json", {**found, "versions": versions()})
        print(json.dumps({name: found[name] for name in ("difference", "energy", "gauge_angle", "gauge_difference")}))


def compare(folder: Path, work: Path, *, count: int, ranks: tuple[int, int], k: int, points: int, seed: int = 0,
            texts: Sequence[str] = TEXTS) -> dict[str, Any]:
    """All the figures.

    Returns:
        `difference`: the largest difference of the model's answers, relative to their largest, between PEFT with an exported point and our own
        decoding, and the same of the adapters as PEFT made them; `gauge_angle`: the largest principal angle between the codes of the two
        gauges, in radians; `gauge_difference`: the largest difference of their answers at one z; energies and the rest of the space.
    """
    import subspace
    from subspace.export import export, placed
    from subspace.foreign import gather_folders
    from subspace.project import project

    backbone = deltas.load_backbone(folder)
    original = load(folder, backbone)
    batch = tokens(backbone, texts)
    rng, made = np.random.default_rng(seed), []
    shared: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for i in range(count):
        made.append(make(original, work / "made" / f"task{i:02d}", ranks, shared, rng))
        regauged(work / "made" / f"task{i:02d}", work / "regauged" / f"task{i:02d}", rng)
    sources = gather_folders(f"{work}/made/*")
    space = subspace.joint_svd(sources, k)
    other = subspace.joint_svd(gather_folders(f"{work}/regauged/*"), k)
    whole = subspace.joint_svd(sources, count - 1)
    on, other_on, whole_on = (placed(each, backbone) for each in (space, other, whole))
    chosen = {"mean": np.zeros(k, np.float32), **{f"source{i}": z for i, z in enumerate(space.codes[:points])},
              **{f"random{i}": z for i, z in enumerate(rng.standard_normal((points, k)).astype(np.float32))}}
    decoded, differences, projected = {}, {}, []
    for name, z in chosen.items():
        decoded[name] = ours(on, backbone, z, batch)
        export(space, z, work / "exported" / name)
        differences[name] = apart(theirs(original, work / "exported" / name, batch), decoded[name])
        again = project(space, work / "exported" / name)
        projected.append(float(np.abs(again.z - z).max()))
    plain = theirs(original, None, batch)
    loaded = [apart(theirs(original, work / "made" / f"task{i:02d}", batch), ours(whole_on, backbone, whole.codes[i], batch))
              for i in range(points)]
    return {
        "model": folder.name, "adapters": made, "k": k, "difference": max(differences.values()), "differences": differences,
        "made_difference": max(loaded), "effect": apart(plain, decoded["mean"]), "code_difference": max(projected),
        "energy": space.energy["lora"], "spectrum": space.spectrum.tolist(), "null": space.null.tolist(),
        "gauge_angle": float(np.max(angles(space.codes, other.codes))),
        "gauge_difference": max(apart(ours(other_on, backbone, z, batch), decoded[name]) for name, z in chosen.items()),
        "missed_of_sources": [project(space, work / "made" / f"task{i:02d}").missed for i in range(points)],
        "rank_of_cores": sorted({shape[1] for name, shape in zip(space.parts["lora"].layout.names, space.parts["lora"].layout.shapes)
                                 if name.endswith(".a")}),
    }


def angles(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Principal angles between the spaces of two sets of codes [N, k]."""
    from scipy.linalg import subspace_angles

    return subspace_angles(a.astype(np.float64), b.astype(np.float64))


# ------------------------------------------------------------ PyTorch's side
def load(folder: Path, backbone: deltas.Backbone) -> Any:
    """transformers' model, float32, with its head where it has one."""
    import torch
    import transformers
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    name = {"decoder": "AutoModelForCausalLM", "encoder-decoder": "AutoModelForSeq2SeqLM"}.get(backbone.kind)
    name = name or ("AutoModelForMaskedLM" if backbone.config.masked_head else "AutoModel")
    return getattr(transformers, name).from_pretrained(folder, dtype=torch.float32).eval()


def linear(model: Any) -> dict[str, Any]:
    """The linear maps in the layers, by name."""
    from torch import nn

    return {name: module for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and any(word.isdigit() for word in name.split("."))}


def make(model: Any, folder: Path, ranks: tuple[int, int], shared: dict[str, tuple[np.ndarray, np.ndarray]],
         rng: np.random.Generator) -> dict[str, Any]:
    """PEFT saves an adapter of a random rank at random kinds of modules, its factors in a random gauge."""
    import peft
    import torch

    rank, modules = int(rng.integers(ranks[0], ranks[1] + 1)), linear(model)
    kinds = sorted({kind_of(name) for name in modules})
    chosen = sorted(rng.choice(kinds, int(rng.integers(1, len(kinds) + 1)), replace=False).tolist())
    config = peft.LoraConfig(r=rank, lora_alpha=int(rng.integers(1, 33)), target_modules=[n for n in modules if kind_of(n) in chosen],
                             use_rslora=bool(rng.integers(2)))
    adapter: Any = peft.get_peft_model(model, config)
    with torch.no_grad():
        layer: Any
        for name, layer in adapter.base_model.model.named_modules():
            if not hasattr(layer, "lora_A"):
                continue
            a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            n_out, n_in = b.shape[0], a.shape[1]
            if name not in shared:
                shared[name] = rng.standard_normal((SHARED, n_in)), rng.standard_normal((n_out, SHARED))
            u, v = shared[name]
            new_a = rng.standard_normal((rank, SHARED)) @ u + OWN * rng.standard_normal((rank, n_in))
            new_b = v @ rng.standard_normal((SHARED, rank)) + OWN * rng.standard_normal((n_out, rank))
            size = layer.scaling["default"] * np.linalg.norm(new_b @ new_a) / float(torch.linalg.norm(layer.base_layer.weight))
            gauge = rng.standard_normal((rank, rank)) + 2 * np.eye(rank)
            a.copy_(torch.tensor(np.linalg.solve(gauge, new_a)))
            b.copy_(torch.tensor(new_b @ gauge * SIZE / size))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapter.save_pretrained(str(folder))
    adapter.unload()
    return {"rank": rank, "alpha": config.lora_alpha, "rslora": config.use_rslora, "targets": chosen}


def kind_of(name: str) -> str:
    """What a module is in its layer."""
    words = name.split(".")
    last = max(i for i, word in enumerate(words) if word.isdigit())
    return ".".join(words[last + 1 :])


def regauged(folder: Path, to: Path, rng: np.random.Generator) -> None:
    """The same adapter in other factors."""
    from safetensors.numpy import load_file, save_file

    shutil.copytree(folder, to)
    values = load_file(folder / "adapter_model.safetensors")
    for name in list(values):
        if name.endswith("lora_A.weight"):
            rank, below = values[name].shape[0], name.replace("lora_A", "lora_B")
            gauge = rng.standard_normal((rank, rank)) + 2 * np.eye(rank)
            values[name], values[below] = (x.astype(np.float32) for x in (np.linalg.solve(gauge, values[name]), values[below] @ gauge))
    save_file(values, to / "adapter_model.safetensors", {"format": "pt"})


def theirs(model: Any, folder: Path | None, batch: Mapping[str, np.ndarray]) -> np.ndarray:
    """PyTorch's answers at real tokens, with PEFT's adapter of the folder."""
    import peft
    import torch

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapter: Any = model if folder is None else peft.PeftModel.from_pretrained(model, str(folder)).eval()
        out = adapter(**{name: torch.tensor(value, dtype=torch.long) for name, value in batch.items()})
    if folder is not None:
        adapter.unload()
    return at_tokens((out.logits if "logits" in out else out.last_hidden_state).numpy(), batch)


# ------------------------------------------------------------ ours
def ours(space: Any, backbone: deltas.Backbone, z: np.ndarray, batch: Mapping[str, np.ndarray]) -> np.ndarray:
    """Our answers with a point of the space, decoded."""
    from subspace.optimize import attach_to

    attached = attach_to(space, backbone, "lora")
    return at_tokens(np.asarray(attached.module(space.decode("lora", z), attached.frozen)(*backbone.inputs(batch))), batch)


def tokens(backbone: deltas.Backbone, texts: Sequence[str]) -> dict[str, np.ndarray]:
    """A padded batch."""
    tokenizer = backbone.tokenizer
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token_id = backbone.config.pad_token_id
    batch = tokenizer(list(texts), padding=True, padding_side="right", return_tensors="np")
    found = {name: np.asarray(batch[name], np.int32) for name in ("input_ids", "attention_mask")}
    if backbone.kind == "encoder-decoder":
        found["decoder_input_ids"] = found["input_ids"][:, :4]
    return found


def at_tokens(answers: np.ndarray, batch: Mapping[str, np.ndarray]) -> np.ndarray:
    """Those of padding aside."""
    return answers if "decoder_input_ids" in batch else answers[batch["attention_mask"] > 0]


def apart(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference, relative to the largest answer."""
    return float(np.abs(one - other).max() / np.abs(one).max())


if __name__ == "__main__":
    tyro.cli(ForeignAdapters).run()

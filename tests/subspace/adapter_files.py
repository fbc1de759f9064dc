"""Folders of adapters as PEFT and AdapterHub write them, from arrays."""

import json

import numpy as np
from safetensors.numpy import save_file

BASE = "base_model.model."


def write(folder, raw, tensors, name="adapter_model.safetensors"):
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps(raw))
    save_file({key: np.ascontiguousarray(value, np.float32) for key, value in tensors.items()}, folder / name)
    return folder


def lora(folder, factors, base="a/base", prefix="", alpha=6, **more):
    """Factors [in, r] and [r, out] whose product is the change: the file's B is divided by the scale that its configuration says."""
    ranks = {f"{prefix}{module}": a.shape[1] for module, (a, _) in factors.items()}
    raw = {"peft_type": "LORA", "r": max(ranks.values()), "lora_alpha": alpha, "target_modules": sorted(ranks), "base_model_name_or_path": base,
           "rank_pattern": {name.replace(".", r"\."): rank for name, rank in ranks.items()}, "lora_dropout": 0.1, **more}
    tensors = {}
    for module, (a, b) in factors.items():
        tensors |= {f"{BASE}{prefix}{module}.lora_A.weight": a.T, f"{BASE}{prefix}{module}.lora_B.weight": b.T * a.shape[1] / alpha}
    return write(folder, raw, tensors)


def ia3(folder, seed, base="a/base", sizes=(5, 7), **more):
    rng = np.random.default_rng([seed, 9])
    tensors = {f"{BASE}layer.{i}.k.ia3_l": 1 + rng.standard_normal((size, 1)) for i, size in enumerate(sizes)}
    raw = {"peft_type": "IA3", "target_modules": ["k"], "feedforward_modules": [], "base_model_name_or_path": base, **more}
    return write(folder, raw, tensors)


def bottleneck(folder, seed, base="a/base", name="mine", **flags):
    rng = np.random.default_rng([seed, 10])
    config = {"mh_adapter": False, "output_adapter": True, "reduction_factor": 2, "non_linearity": "relu", "original_ln_before": True, **flags}
    key = f"bert.encoder.layer.0.output.adapters.{name}."
    sizes = {"adapter_down.0.weight": (2, 4), "adapter_down.0.bias": (2,), "adapter_up.weight": (4, 2), "adapter_up.bias": (4,)}
    return write(folder, {"config": config, "name": name, "version": "adapters.1.3.0", "model_name": base},
                 {key + end: rng.standard_normal(shape) for end, shape in sizes.items()}, "adapter.safetensors")

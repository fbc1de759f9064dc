"""Makes AdapterHub checkpoints with the real library: `PYTHON make_adapterhub.py JOB.json`, with a Python that has `adapters`.

The job names for each case the folder of a backbone, its class, the adapter's configuration by class and arguments, the inputs, a seed, and
where the checkpoint goes; the logits are written beside it, with and without the adapter.
"""

import json
import logging
import sys
from pathlib import Path

import adapters
import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

logging.disable(logging.WARNING)


def model(folder: Path, kind: str):
    """The backbone in the folder, in the transformers that this library stands on."""
    config, tensors = json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")
    config.pop("model_type")
    if "rope_parameters" in config:  # the newer name
        config["rope_scaling"] = config.pop("rope_parameters")
        config["rope_theta"] = config["rope_scaling"].pop("rope_theta")
    made = getattr(transformers, kind)
    made = made(made.config_class(**config, attn_implementation="eager")).eval()
    assert not made.load_state_dict(tensors, strict=False).unexpected_keys
    if kind.startswith("T5") and "lm_head.weight" in tensors:
        made.lm_head.weight = torch.nn.Parameter(tensors["lm_head.weight"])
    return made


def make(case: dict) -> None:
    """One checkpoint with its logits."""
    out, rng = Path(case["out"]), np.random.default_rng(case["seed"])
    made = model(Path(case["backbone"]), case["model"])
    adapters.init(made)
    made.add_adapter("mine", config=getattr(adapters, case["adapter"])(**case["options"]))
    made.set_active_adapters("mine")
    made.eval()
    with torch.no_grad():
        for name, parameter in sorted(made.named_parameters()):
            if ".mine." in name:
                noise = rng.integers(1, 8, tuple(parameter.shape)) * rng.choice([-1, 1], tuple(parameter.shape)) / 16
                parameter.copy_(torch.tensor(noise, dtype=torch.float32))
    made.save_adapter(str(out), "mine", use_safetensors=False, with_head=False)
    tensors = torch.load(out / "pytorch_adapter.bin", weights_only=True)
    save_file({name: value.clone() for name, value in tensors.items()}, out / "adapter.safetensors")  # not the library's: it refuses a prefix
    batch = {name: torch.tensor(value) for name, value in case["batch"].items()}
    with torch.no_grad():
        np.save(out / "logits.npy", made(**batch).logits.numpy())
        made.set_active_adapters(None)
        np.save(out / "plain.npy", made(**batch).logits.numpy())


if __name__ == "__main__":
    for case in json.loads(Path(sys.argv[1]).read_text()):
        make(case)

"""Deltas in other libraries' files.

peft           PEFT: LoRA, (IA)³, prefix, prompt and layer-norm tuning, in and out; any difference of weights out as a LoRA
adapterhub     AdapterHub's `adapters`: Pfeiffer, Houlsby and parallel adapters, LoRA and prefix, in
reading        folders, safetensors, pickles by leave alone; every tensor taken or named in one error
names          modules of the Hugging Face model ↔ sites
unplaced       adapters on no backbone, which stay in their files; unplaced_reading makes them of either library's folders
placing        and from there to their places on it, or to PEFT's files again
low_rank       differences of weights by the singular value decomposition
solutions      tensors ↔ `Solution`, and into a bank

What would change the mathematics and is not built is refused by its name; no tensor is passed over.
"""

from pathlib import Path
from typing import Any

from deltas.backbones.loading import Backbone
from deltas.bank import Solution
from deltas.checkpoints.adapterhub import load_adapterhub
from deltas.checkpoints.peft import load_peft, save_peft
from deltas.checkpoints.reading import read_config
from deltas.checkpoints.solutions import add_to_bank, read_solution
from deltas.checkpoints.unplaced import Unplaced
from deltas.checkpoints.unplaced_reading import read_unplaced
from deltas.errors import InputError


def load_checkpoint(folder: str | Path, backbone: Backbone, **options: Any) -> Solution:
    """The delta in the folder of either library, told apart by their configurations: see `load_peft` and `load_adapterhub`."""
    raw = read_config(Path(folder))
    if "peft_type" in raw:
        return load_peft(folder, backbone, **options)
    if "config" in raw:
        return load_adapterhub(folder, backbone, **options)
    raise InputError(f"expected a peft_type or a config in {Path(folder) / 'adapter_config.json'}, got neither; it is of another library")


__all__ = ["Unplaced", "add_to_bank", "load_adapterhub", "load_checkpoint", "load_peft", "read_solution", "read_unplaced", "save_peft"]

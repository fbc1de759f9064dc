"""Deltas in other libraries' files.

peft           PEFT: LoRA, (IA)³, prefix, prompt and layer-norm tuning, in and out; any difference of weights out as a LoRA
adapterhub     AdapterHub's `adapters`: Pfeiffer, Houlsby and parallel adapters, LoRA and prefix, in
reading        folders, safetensors, pickles by leave alone; every tensor taken or named in one error
names          modules of the Hugging Face model ↔ sites
low_rank       differences of weights by the singular value decomposition
solutions      tensors ↔ `Solution`, and into a bank

What would change the mathematics and is not built is refused by its name; no tensor is passed over.
"""

from deltas.checkpoints.adapterhub import load_adapterhub
from deltas.checkpoints.peft import load_peft, save_peft
from deltas.checkpoints.solutions import add_to_bank, read_solution

__all__ = ["add_to_bank", "load_adapterhub", "load_peft", "read_solution", "save_peft"]

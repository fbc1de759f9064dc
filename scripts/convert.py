"""`deltaspace convert`: deltas from and to the files of other libraries."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    from deltas import Backbone, Solution


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Bring a PEFT or AdapterHub checkpoint into a bank, or write a solution as a PEFT checkpoint."""

    source: Annotated[Path, tyro.conf.Positional]
    """The folder of a PEFT or AdapterHub checkpoint, or a solution's file in a bank (bank/solutions/lora/task.0.safetensors)."""
    out: Path
    """The bank, new or not; or the folder of the PEFT checkpoint."""
    backbone: str = "tiny"
    """The backbone it was trained on: a Hugging Face folder, a hub id, or "tiny"."""
    to: Literal["bank", "peft"] = "bank"
    """What to write."""
    task: str | None = None
    """What the solution is called; the folder's or the adapter's name where not given."""
    seed: int = 0
    """The solution's number for that task."""
    label: str | None = None
    """The delta's label in the bank; the type's name where not given."""
    rank: int | None = None
    """peft: write a difference of weights as a LoRA of at most this rank."""
    energy: float | None = None
    """peft: or of the least rank that keeps this share of its squared norm."""
    allow_pickle: bool = False
    """Read a checkpoint that is a pickle, weights alone, with PyTorch."""
    without_head: bool = False
    """Leave out the prediction head beside an AdapterHub adapter."""

    def run(self) -> None:
        """Convert, then write `summary.json` beside the result."""
        from deltas.errors import InputError

        if self.to == "bank" and (self.rank is not None or self.energy is not None):
            raise InputError("expected --to peft with a rank or an energy, got --to bank; a bank keeps solutions as they are")
        if not self.source.exists():
            raise InputError(f"expected a checkpoint's folder or a solution's file, got nothing at {self.source}; check the path")
        if self.out.resolve() == self.source.resolve():
            raise InputError(f"expected another folder for the result, got {self.out}, which is the source; choose another --out")
        import deltas
        from deltas.bank import versions
        from deltas.files import write_json

        backbone = deltas.load_backbone(self.backbone)
        solution = self._read(backbone)
        summary = self._to_bank(solution, backbone) if self.to == "bank" else self._to_peft(solution, backbone)
        write_json(self.out / "summary.json", {**summary, "converted": {
            "source": str(self.source), "task": solution.task, "seed": solution.seed, "type": solution.config.to_json(),
            "parameters": solution.layout.size}, "backbone": backbone.fingerprint, "versions": versions()})
        print(f"{solution.label} of {solution.layout.size} parameters for {solution.task} in {self.out}")

    def _read(self, backbone: "Backbone") -> "Solution":
        from deltas.checkpoints import load_checkpoint, read_solution

        if self.source.is_file():
            return read_solution(self.source)
        return load_checkpoint(self.source, backbone, task=self.task, seed=self.seed, label=self.label, allow_pickle=self.allow_pickle,
                               without_head=self.without_head)

    def _to_bank(self, solution: "Solution", backbone: "Backbone") -> dict[str, Any]:
        """Add it; what another command has written about the bank stays, with the scores of all that is in it now."""
        from deltas import Bank
        from deltas.checkpoints import add_to_bank
        from deltas.files import read_json

        bank, path = Bank(self.out, create=True), self.out / "summary.json"
        add_to_bank(bank, solution, backbone)
        scores = {label: {f"{task}.{seed}": bank.scores(label, task, seed) for task, seed in bank.pairs([label])} for label in bank.labels()}
        return {**(read_json(path) if path.is_file() else {}), "solutions": scores, "failed": bank.failed()}

    def _to_peft(self, solution: "Solution", backbone: "Backbone") -> dict[str, Any]:
        from deltas.checkpoints import save_peft
        from deltas.files import read_json

        save_peft(solution, self.out, backbone, rank=self.rank, energy=self.energy)
        return {"peft": read_json(self.out / "adapter_config.json")}

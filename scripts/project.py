"""`deltaspace project`: adapters from elsewhere as points of a subspace."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class Project:
    """Say where adapters lie in a subspace: their codes, how much of them the space misses, and which sources are nearest."""

    space: Annotated[Path, tyro.conf.Positional]
    """A subspace's folder."""
    adapters: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Folders of PEFT or AdapterHub adapters, as patterns too; or files of solutions (bank/solutions/lora/task.0.safetensors)."""
    out: Path
    """Where `found.json` (for `transfer` and `export`) and `summary.json` are written."""
    backbone: str | None = None
    """For folders, where the subspace was fitted on a bank: its backbone, a Hugging Face folder, a hub id, or "tiny"."""
    label: str | None = None
    """The delta type of the subspace to read them as; their own where not given."""
    neighbours: int = 5
    """Nearest sources named."""
    relative: bool | None = None
    """For a prefix in a space of aligned solutions: whether the backbone has relative positions, as T5 has."""

    def run(self) -> None:
        """Project each, print a line, write all."""
        import deltas
        import subspace
        from deltas.bank import versions
        from deltas.checkpoints import read_solution
        from deltas.errors import InputError
        from deltas.files import write_json
        from subspace.foreign import matching

        from .progress import Bars

        space, bars = subspace.Subspace.load(self.space), Bars()
        paths = [Path(one) for one in self.adapters if Path(one).is_file()]
        paths += matching([one for one in self.adapters if not Path(one).is_file()])
        if not paths:
            raise InputError(f"expected folders of adapters or files of solutions, got nothing at {', '.join(self.adapters)}; check the paths")
        backbone = None if self.backbone is None else deltas.load_backbone(self.backbone)
        points, told = [], []
        with bars.stage("project", len(paths)) as bar:
            for path in paths:
                one = subspace.project(space, read_solution(path) if path.is_file() else path, label=self.label, backbone=backbone,
                                       neighbours=self.neighbours, relative=self.relative)
                points.append({"task": one.name, "through": one.label, "seed": 0, "z": one.z.tolist()})
                told.append({"path": str(path), **one.to_json()})
                near = ", ".join(f"{n.task} {n.cosine:.2f}" for n in one.neighbours[:3])
                print(f"{path} as {one.label}: the space misses {one.missed:.0%} of what is not the mean; nearest {near}")
                bar()
        write_json(self.out / "found.json", points)
        write_json(self.out / "summary.json", {"projections": told, "seconds": bars.seconds, "versions": versions()})

"""`deltaspace inspect`: what a backbone, a bank, a solution or a subspace consists of."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from .options import parse_type


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Print what a thing is and what is in it: a backbone's tree with the deltas on it, a bank's solutions, one solution, a subspace."""

    what: Annotated[str, tyro.conf.Positional]
    """A backbone (a Hugging Face folder, a hub id or "tiny"), a bank's folder, a solution's file, or a subspace's folder or file."""
    types: tuple[str, ...] = ()
    """Delta types to attach to the backbone first, to see where they go: lora:rank=8 prefix:length=10."""
    fingerprint: bool = False
    """Read a backbone's weights too, which checks them and gives their fingerprint; otherwise their shapes are enough."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of a backbone's weights as they would be loaded."""
    out: Path | None = None
    """Where the text (inspect.txt) and all facts (summary.json) are written; only printed where not given."""

    def run(self) -> None:
        """Print, and write where a folder is given."""
        from rich.console import Console

        import subspace.inspection  # noqa: F401 - which adds subspaces to what is recognised
        from deltas.backbones import load_backbone
        from deltas.bank import versions
        from deltas.files import write_json, write_text
        from deltas.inspection import inspect

        from .progress import Bars

        bars, steps = Bars(), 1000
        types = [parse_type(text) for text in self.types]
        with bars.stage("inspect", steps) as bar:
            thing = load_backbone(self.what, dtype=self.dtype) if self.fingerprint else self.what
            report = inspect(thing, types=types, dtype=self.dtype, on_progress=lambda done, total: bar.to(steps * done // total))
        if self.out is not None:
            write_text(self.out / "inspect.txt", f"{report}\n")
            write_json(self.out / "summary.json", {**report.to_json(), "seconds": bars.seconds, "versions": versions()})
        Console().print(report, soft_wrap=True)

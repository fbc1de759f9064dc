"""`deltaspace demo`: the study on the tiny T5 and the gym that come with the package."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Demo:
    """A whole study in a few minutes on a processor: no network, no accelerator. A test bed, and says so."""

    out: Path = Path("demo")
    """The study's folder."""
    cpu_devices: int = 2
    """Devices that the processor is split into: as many solutions run side by side."""

    def run(self) -> None:
        """Run the packaged study file."""
        from .study import run_study

        run_study((Path(__file__).parent / "demo.toml").read_text(encoding="utf-8"), self.out, self.cpu_devices)

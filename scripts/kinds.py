"""The experiments that a study file can name by `kind`; a file without one is a study of the subspace (`study_file`).

Every other key of such a file is a field of the experiment's dataclass, which is the command's options where there is a command of that name.
"""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

KINDS: dict[str, tuple[str, str]] = {
    "arbitrary": (".arbitrary", "Arbitrary"),
    "combinability": (".presets.combinability", "Combinability"),
    "continual": (".continual", "Continual"),
    "convergence": (".presets.convergence", "Convergence"),
    "efficiency": (".presets.efficiency", "Efficiency"),
    "ensemble": (".ensemble", "Ensemble"),
    "performance": (".presets.performance", "Performance"),
    "scale": (".presets.scale", "Scale"),
    "transferability": (".presets.transferability", "Transferability"),
}
"""kind → module and class: a dataclass of settings with `out: Path` and `run()`."""


def experiment_of(table: Mapping[str, Any], out: Path, cpu_devices: int | None) -> Any:
    """The experiment that a study file describes, ready to `run` in the folder `out`.

    Raises:
        InputError: an unknown kind or key (the nearest known one is named), or a value of another kind than the setting's.
    """
    from deltas.errors import InputError

    from .settings import fill

    kind = table["kind"]
    if kind not in KINDS:
        raise InputError(f"expected kind to be one of {', '.join(sorted(KINDS))}, got {kind!r}; choose one, or leave it out for a study of the "
                         "subspace")
    module, name = KINDS[kind]
    chosen = getattr(importlib.import_module(module, __package__), name)
    fields = {key: value for key, value in table.items() if key != "kind"}
    given = {"out": str(out)} | ({} if cpu_devices is None else {"cpu_devices": cpu_devices})
    if taken := sorted(set(fields) & {"out", "cpu_devices"}):
        raise InputError(f"expected {taken[0]} on the command line, got it in the study file; give it as --{taken[0].replace('_', '-')}")
    return fill(chosen, fields | given, kind)


def packaged() -> dict[str, Path]:
    """The study files that come with the package, by name."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "studies").glob("*.toml"))}

"""What `deltaspace continual` trains, and which answers are read off each run: LAE, its ablations, what it is compared with, its controls."""

from dataclasses import dataclass
from typing import Literal

LAE, ONLINE, OFFLINE, COPY = "LAE", "LAE, online only", "LAE, offline only", "LAE, offline never updated"
NO_LOCAL, NO_FREEZING, NO_CALIBRATION = "LAE, loss over all seen", "LAE, no freezing", "LAE, no calibration"
SEQUENTIAL, LOCAL, JOINT, HEAD, CHANCE = "sequential tuning", "sequential, local loss", "joint training", "head only", "chance"
CODES, CODES_ONLINE, RANDOM, MEAN = "LAE in codes", "codes, online only", "LAE in random directions", "head only, mean delta"


@dataclass(frozen=True, kw_only=True)
class Read:
    """A line of the table: which of a run's deltas answers."""

    method: str
    offline: Literal["decay", "copy"] | None = None
    alone: bool = False


@dataclass(frozen=True, kw_only=True)
class Run:
    """One way through the sequence. The fields are those of `subspace.continual.Plan`, where it goes, and what is read off it."""

    reads: tuple[Read, ...]
    loss: Literal["local", "seen", "all"] = "local"
    freezing: Literal["paper", "never", "always"] = "paper"
    together: bool = False
    where: Literal["delta", "plain", "codes", "random"] = "delta"


RUNS = {
    "lae": Run(reads=(Read(method=LAE, offline="decay"), Read(method=ONLINE), Read(method=OFFLINE, offline="decay", alone=True),
                      Read(method=COPY, offline="copy"))),
    "no_local": Run(reads=(Read(method=NO_LOCAL, offline="decay"),), loss="seen"),
    "no_freezing": Run(reads=(Read(method=NO_FREEZING, offline="decay"), Read(method=LOCAL)), freezing="never"),
    "no_calibration": Run(reads=(Read(method=NO_CALIBRATION, offline="decay"),), where="plain"),
    "sequential": Run(reads=(Read(method=SEQUENTIAL),), loss="seen", freezing="never"),
    "joint": Run(reads=(Read(method=JOINT),), loss="all", freezing="never", together=True),
    "head_only": Run(reads=(Read(method=HEAD),), freezing="always"),
    "codes": Run(reads=(Read(method=CODES, offline="decay"), Read(method=CODES_ONLINE)), where="codes"),
    "random_codes": Run(reads=(Read(method=RANDOM, offline="decay"),), where="random"),
    "mean_code": Run(reads=(Read(method=MEAN),), freezing="always", where="codes"),
}
RATES = {"lora": 1e-3, "adapter": 1e-3, "prefix": 1e-2, "codes": 0.1}
"""Learning rates where none are given."""
IN_SPACE = ("codes", "random_codes", "mean_code")
"""Runs that need a subspace."""
ORDER = (LAE, ONLINE, OFFLINE, COPY, NO_LOCAL, NO_FREEZING, NO_CALIBRATION, SEQUENTIAL, LOCAL, JOINT, CODES, CODES_ONLINE, RANDOM, HEAD, MEAN,
         CHANCE)
"""The lines of the tables."""

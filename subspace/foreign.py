"""Sources from folders of other libraries' adapters, by glob, with the backbone or without.

LoRA of any rank and at any modules stand together in product space; the other types stand as their numbers, which must be of one layout a type.
Types are paired by task; a task that only some types have is a missing block. Whatever is left out has its reason in the manifest.

Two adapters are one where their numbers are equal, or, of LoRA, their changes of weights, which is seen without forming any: with random u and
v for each module, uᵀ A B v is the same number in every gauge.
"""

import glob
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from deltas.attach import natural
from deltas.backbones import Backbone
from deltas.checkpoints import load_checkpoint
from deltas.checkpoints.reading import read_config
from deltas.checkpoints.solutions import parameters_of
from deltas.checkpoints.unplaced import Factors, Unplaced
from deltas.checkpoints.unplaced_reading import read_unplaced
from deltas.errors import InputError
from deltas.files import sha256
from deltas.layout import Layout
from deltas.types import DeltaType, LoRA
from subspace.product import factors_of, product_block, product_rows
from subspace.rows import Stored
from subspace.sources import NAMED, Block, Pair, Sources, entry, marks, once

PROBES = 4
"""Pairs of random vectors a module."""
SAME = 1e-4
"""Changes of weights that differ by less than this share are those of one adapter, saved twice."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Usable:
    """One folder that could be read."""

    folder: Path
    task: str
    config: DeltaType
    layout: Layout
    theta0: np.ndarray
    vector: Any
    """θ − θ0, in memory or read as it is sliced."""
    factors: Factors | None
    """Of a LoRA."""
    base: str | None

    @property
    def label(self) -> str:
        """The type's."""
        return self.config.label

    def about(self) -> dict[str, Any]:
        """What the manifest says of its base, sizes and places."""
        found: dict[str, Any] = {"base": self.base}
        if isinstance(self.config, LoRA):
            ranks = {name.removesuffix(".a"): shape[1] for name, shape in zip(self.layout.names, self.layout.shapes) if name.endswith(".a")}
            found |= {"rank": sorted(set(ranks.values())), "targets": sorted({name.rpartition(".")[2] for name in ranks})}
        return found

    def entry(self, seed: int = 0, reason: str = "") -> dict[str, Any]:
        """Its place in the manifest."""
        return entry(str(self.folder), self.label, self.task, seed, self.layout.size, reason, **self.about())


def gather_folders(
    patterns: str | Path | Sequence[str | Path], *, space: str = "product", labels: Sequence[str] | None = None,
    backbone: Backbone | None = None, task: str | None = None, rank: int | None = None, strict: bool = False, allow_pickle: bool = False,
    without_head: bool = False, on_progress: Callable[[int, int], None] | None = None,
) -> Sources:
    """The adapters of PEFT and AdapterHub in the folders that the patterns match.

    Args:
        patterns: globs of folders (`adapters/*`; `**` for folders in folders), each with an `adapter_config.json`.
        space: "product", in which LoRA of any ranks and modules have one Gram matrix, or "factors", for which they must be of one shape.
        labels: the types that are wanted (lora, adapter, ia3, prefix, prompt, full); None is all that are there.
        backbone: the one that all were trained on, which gives them their places at once; without it nothing is loaded but the adapters, which
            stay in their files, and `subspace.placed` gives the fitted subspace its places.
        task: a regular expression that finds the task in a folder's name (of the path, where it has a slash), as its first group; None is
            the folder's name. Several folders of one task and type count as its seeds 0, 1, … in the order of their names.
        rank: see `product_rows`.
        strict: refuse the first folder that cannot be used instead of leaving it out.
        allow_pickle, without_head: see `load_checkpoint`.
        on_progress: told (folders read so far, folders in all).

    Raises:
        InputError: nothing that matches, fewer than 2 usable adapters (with the reasons), adapters of different base models, of shapes that do
            not go together, or of a type with different settings.

    Example:
        sources = subspace.gather_folders("adapters/*", task=r"(.*)-(?:lora|ia3)")
        space = subspace.joint_svd(sources, k=16)
    """
    once("delta type", labels or ())
    if space not in ("product", "factors"):
        raise InputError(f"expected space product or factors, got {space!r}; choose one of them")
    named = [str(pattern) for pattern in ([patterns] if isinstance(patterns, str | Path) else patterns)]
    folders, find = matching(named), _finder(task)
    found: list[Unplaced | Usable] = []
    tasks: list[str] = []
    files: dict[str, str] = {}
    manifest: list[dict[str, Any]] = []
    for i, folder in enumerate(folders):
        before = marks(map(str, sorted(folder.glob("*adapter*"))))
        try:
            tasks.append(find(folder))
            if backbone is None:
                found.append(read_unplaced(folder, allow_pickle=allow_pickle, without_head=without_head))
            else:
                found.append(_placed(folder, tasks[-1], backbone, space, allow_pickle, without_head))
            files |= before
        except InputError as error:
            if strict:
                raise
            del tasks[len(found) :]
            manifest.append(entry(str(folder), "", folder.resolve().name, 0, None, str(error)))
        if on_progress is not None:
            on_progress(i + 1, len(folders))
    usable = _under_one_prefix(found, tasks)
    for judge in (_unwanted(labels), _twice, _alone):
        reasons = judge(usable)
        manifest += [a.entry(reason=reasons[id(a)]) for a in usable if id(a) in reasons]
        usable = [a for a in usable if id(a) not in reasons]
    if len(usable) < 2:
        reasons = ", ".join(dict.fromkeys(e["reason"].replace("; ", ", ") for e in manifest[:3]))
        raise InputError(f"expected at least 2 adapters that can be used in {', '.join(named)}, got {len(usable)} of {len(folders)} folders"
                         f"{f' ({reasons})' if reasons else ''}; give more of them")
    if absent := [label for label in labels or () if label not in {a.label for a in usable}]:
        raise InputError(f"expected adapters of type {absent[0]} in {', '.join(named)}, got none that can be used; leave the type out")
    base = None if backbone is not None else _one_base(usable)
    own = {label: _by_pair([a for a in usable if a.label == label]) for label in sorted({a.label for a in usable})}
    pairs = sorted(set().union(*own.values()))
    blocks = {label: _block(label, list(by_pair.values()), np.array([pairs.index(pair) for pair in by_pair]), space, rank)
              for label, by_pair in own.items()}
    manifest += [a.entry(seed) for by_pair in own.values() for (_, seed), a in by_pair.items()]
    kept, products = {a.folder for a in usable}, space == "product" and any(isinstance(block.config, LoRA) for block in blocks.values())
    return Sources(
        name=", ".join(named), backbone=backbone.fingerprint if backbone is not None else NAMED + base if base else "", pairs=tuple(pairs),
        blocks=blocks, space="product" if products else "factors", manifest=tuple(sorted(manifest, key=lambda e: natural(e["path"]))),
        files={path: mark for path, mark in files.items() if Path(path).parent in kept})


def matching(patterns: Iterable[str]) -> list[Path]:
    """The folders that any of the patterns matches, once each, in the order of their names."""
    found: dict[Path, None] = {}
    for pattern in patterns:
        here = [Path(path) for path in glob.glob(str(Path(pattern).expanduser()), recursive=True) if Path(path).is_dir()]
        if not here:
            raise InputError(f"expected folders of adapters, got none that {pattern!r} matches; check the pattern")
        found |= dict.fromkeys(here)
    return sorted(found, key=lambda path: natural(str(path)))


def _finder(pattern: str | None) -> Callable[[Path], str]:
    if pattern is None:
        return lambda folder: folder.resolve().name
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"expected a regular expression for the task, got {pattern!r} ({error}); mend it") from None

    def find(folder: Path) -> str:
        whole = folder.resolve()
        match = compiled.search(whole.as_posix()) if "/" in pattern else compiled.fullmatch(whole.name)
        if match is None or not (name := match[1] if match.groups() else match[0]):
            raise InputError(f"expected a folder whose name holds its task as {pattern!r} does, got {folder}; rename it, or give another "
                             "pattern")
        return name

    return find


def _placed(folder: Path, task: str, backbone: Backbone, space: str, allow_pickle: bool, without_head: bool) -> Usable:
    raw = read_config(folder)
    solution = load_checkpoint(folder, backbone, allow_pickle=allow_pickle, without_head=without_head)
    config, vector = solution.config, solution.vector
    if not np.isfinite(vector).all():
        bad = next(name for name, value in parameters_of(solution).items() if not np.isfinite(value).all())
        raise InputError(f"expected finite numbers in {folder}, got NaN or infinity in {bad}; leave it out, or train it again")
    low = isinstance(config, LoRA) and (space == "product" or not config.dora)  # which refuses dora in product space
    return Usable(folder=folder, task=task, config=config, layout=solution.layout, theta0=solution.theta0, vector=vector,
                  base=raw.get("base_model_name_or_path") or raw.get("model_name"),
                  factors=factors_of(config, solution.layout, solution.theta0, Stored([vector]), 0) if low else None)


def _under_one_prefix(found: Sequence[Unplaced | Usable], tasks: Sequence[str]) -> list[Usable]:
    """Adapters that were saved with and without a head beside the base name their modules alike."""
    counts = Counter(a.prefix for a in found if isinstance(a, Unplaced))
    house = max(counts, key=lambda prefix: (counts[prefix], prefix)) if counts else ""
    usable = []
    for a, task in zip(found, tasks, strict=True):
        if isinstance(a, Unplaced):
            a = a.renamed(house)
            a = Usable(folder=a.folder, task=task, config=a.config, layout=a.layout, theta0=a.theta0, vector=a.vector, base=a.base,
                       factors=a.factors if a.kind == "lora" else None)
        usable.append(a)
    return usable


# ------------------------------------------------------------ who is left out, and why
Judge = Callable[[Sequence[Usable]], dict[int, str]]
"""Adapters ↦ the reason to leave one out, by its id."""


def _unwanted(labels: Sequence[str] | None) -> Judge:
    return lambda found: {id(a): f"its type {a.label} was not asked for" for a in found if labels is not None and a.label not in labels}


def _twice(found: Sequence[Usable]) -> dict[int, str]:
    """Of adapters that are one, all but the first."""
    reasons: dict[int, str] = {}
    seen: dict[str, Usable] = {}
    for a in found:
        same = seen.setdefault(sha256(str(a.config.to_json()), np.asarray(a.vector).tobytes()), a)
        if same is not a:
            reasons[id(a)] = f"its tensors are those of {same.folder}"
    low = [a for a in found if a.factors is not None and id(a) not in reasons]
    seen_by = sketches([a.factors for a in low if a.factors is not None])
    for i, a in enumerate(low):
        apart = np.linalg.norm(seen_by[:i] - seen_by[i], axis=1)
        close = [j for j in np.flatnonzero(apart <= SAME * np.linalg.norm(seen_by[i])) if id(low[j]) not in reasons]
        if close:
            reasons[id(a)] = f"its change of weights is that of {low[close[0]].folder}, in other factors"
    return reasons


def sketches(solutions: Sequence[Factors]) -> Float64[np.ndarray, "N probes"]:
    """uᵀ A B v for `PROBES` pairs of random vectors a module: the same in every gauge, and different for different changes."""
    modules = sorted({module for solution in solutions for module in solution}, key=natural)
    found = np.zeros((len(solutions), len(modules), PROBES))
    for i, module in enumerate(modules):
        drawn: dict[tuple[int, int], np.ndarray] = {}
        for n, solution in enumerate(solutions):
            if module in solution:
                a, b = solution[module]
                size = (a.shape[0], b.shape[1])
                if size not in drawn:
                    drawn[size] = np.random.default_rng(int(sha256(module), 16)).standard_normal((sum(size), PROBES))
                found[n, i] = np.sum((a.T @ drawn[size][: size[0]]) * (b @ drawn[size][size[0] :]), axis=0)
    return found.reshape(len(solutions), len(modules) * PROBES)


def _alone(found: Sequence[Usable]) -> dict[int, str]:
    counts = Counter(a.label for a in found)
    return {id(a): f"it is the only {a.label} that can be used" for a in found if counts[a.label] == 1 and len(counts) > 1}


def _one_base(found: Sequence[Usable]) -> str | None:
    """The model that all name as their base; None where none names one."""
    first: dict[str, Usable] = {}
    for a in found:
        if a.base:
            first.setdefault(a.base, a)
    if len(first) > 1:
        (one, here), (other, there) = list(first.items())[:2]
        raise InputError(f"expected adapters of one base model, got {one} in {here.folder} and {other} in {there.folder}; gather them apart, or "
                         "give the backbone that all of them fit")
    return next(iter(first), None)


# ------------------------------------------------------------ blocks
def _by_pair(found: Sequence[Usable]) -> dict[Pair, Usable]:
    """By task and seed, in their order; several of one task are its seeds."""
    counts: Counter[str] = Counter()
    pairs = {}
    for a in found:
        pairs[a.task, counts[a.task]] = a
        counts[a.task] += 1
    return dict(sorted(pairs.items()))


def _block(label: str, found: Sequence[Usable], members: np.ndarray, space: str, rank: int | None) -> Block:
    """The block of one type; its adapters are of one shape where they are not in product space."""
    first = found[0]
    if space == "product" and isinstance(first.config, LoRA):
        solutions = [a.factors for a in found if a.factors is not None]
        return product_block(label, product_rows(solutions, rank=rank, names=[str(a.folder) for a in found]), members)
    for other in found[1:]:
        if (other.config, other.layout) == (first.config, first.layout):
            continue
        if isinstance(first.config, LoRA):
            shapes = [f"rank {', '.join(map(str, about['rank']))} at {', '.join(about['targets'])} in {a.folder}"
                      for a in (first, other) for about in (a.about(),)]
            raise InputError(f"expected lora of one shape in the space of factors, got {' and '.join(shapes)}; use space='product'")
        odd = sorted(set(first.layout.names) ^ set(other.layout.names)) or ["its settings"]
        raise InputError(f"expected {label} adapters of one shape and with the same settings, got a difference at {odd[0]} between "
                         f"{first.folder} and {other.folder}; gather them apart")
    fingerprint = sha256(first.theta0.tobytes(), str(first.layout.to_json()))
    return Block(config=first.config, layout=first.layout, theta0=first.theta0, fingerprint=fingerprint, members=members,
                 rows=Stored([a.vector for a in found]))

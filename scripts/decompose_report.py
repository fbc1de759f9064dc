"""What `deltaspace decompose` writes beside the subspace: how many directions, how far to trust them, what is alike: numbers, figures, page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deltas.errors import InputError

if TYPE_CHECKING:
    from subspace import Sources, Subspace
    from subspace.validation import DualFit

LIMIT = 200
"""Sources that the nulls, held-out tasks and similarities are computed of; of more, so many are drawn by task."""
SYMMETRIES = {
    "lora": "(A G⁻¹)(G B) = A B for every invertible G", "adapter": "its hidden units may stand in any order",
    "lowrank_adapter": "its factors may be turned against each other", "compacter": "its factors may be turned against each other",
    "prefix": "its slots may stand in any order", "prompt": "its slots may stand in any order", "arbitrary": "that of its parts",
    "together": "that of its parts",
}  # fmt: skip
"""By type, what leaves its function as it is and not its numbers."""


def write(
    out: str | Path,
    space: Subspace,
    sources: Sources,
    *,
    categories: Mapping[str, str] | None = None,
    ks: Sequence[int] | None = None,
    maps: Sequence[str] = ("pca", "tsne"),
    draws: int = 100,
    permutations: int = 500,
    seed: int = 0,
    scores: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write out/figures/*.png and out/report.html; return {"trust": what they show} for summary.json.

    What the solutions do not allow (held-out tasks of two tasks, say) is skipped, and its section says why. Everything is computed from the Gram
    matrices of the sources that all types have.

    Args:
        space: the subspace of these sources.
        sources: what was decomposed.
        categories: {task: category}, colours and markers of the tasks.
        ks: dimensions that are tried on held-out tasks; None is a range up to the largest.
        maps: of the tasks in z, among "pca", "tsne", "umap".
        draws: of each null; of more than 100 sources less than half as many.
        permutations: of the tasks, for the similarity of types; as with draws.
        seed: of all draws.
        scores: of held-out tasks, where the backbone was run: `decompose_scores.table`.
    """
    from .decompose_page import write_page

    found = {"trust": sections(space, sources, ks=ks, maps=maps, draws=draws, permutations=permutations, seed=seed)}
    if scores is not None:
        found["trust"]["scores"] = dict(scores)
        if scores["recommended"] is not None:
            found["trust"]["suggested"]["scores"] = scores["recommended"]
    draw(Path(out) / "figures", space, found["trust"], categories or {})
    write_page(Path(out), space, found["trust"], sources.manifest)
    return found


def sections(
    space: Subspace, sources: Sources, *, ks: Sequence[int] | None = None, maps: Sequence[str] = ("pca", "tsne"), draws: int = 100,
    permutations: int = 500, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """All numbers, as JSON; a part that the sources do not allow is {"skipped": why}."""
    from subspace.remembered import common, remembered

    kept = remembered(some(common(sources), seed))
    tasks = sorted({task for task, _ in kept.pairs})
    few, orders = ((n if len(kept.pairs) <= 100 else max(n * 2 // 5, 1)) for n in (draws, permutations))
    found: dict[str, Any] = {
        "sources": {"solutions": len(sources.pairs), "tasks": len({task for task, _ in sources.pairs}),
                    "used_here": len(kept.pairs), "tasks_here": len(tasks),
                    "left_out": sum(entry.get("status") != "used" for entry in sources.manifest),
                    "types": {label: {"solutions": len(block.rows), "size": block.rows.size} for label, block in sources.blocks.items()}},
        "gauge": gauge(kept), "spectrum": _or_why(lambda: _spectrum(kept, few, seed)),
        "held_out": _or_why(lambda: _held_out(space, kept, ks, seed)), "stability": _stability(space, kept, seed),
        "tasks": _or_why(lambda: _tasks(kept)), "types": _or_why(lambda: _types(space, kept, orders, seed)),
        "maps": {method: _or_why(lambda method=method: _map(space, method, seed)) for method in maps},
    }  # fmt: skip
    found["suggested"] = {name: part["above"] for name, part in found["spectrum"].get("nulls", {}).items()}
    if "recommended" in found["held_out"]:
        found["suggested"]["held_out"] = found["held_out"]["recommended"]["k"]
    return found


def _or_why(part: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return part()
    except InputError as error:
        return {"skipped": str(error)}


def some(sources: Sources, seed: int) -> Sources:
    """Whole tasks in random order, up to the limit."""
    if len(sources.pairs) <= LIMIT:
        return sources
    tasks = sorted({task for task, _ in sources.pairs})
    rank = {tasks[i]: n for n, i in enumerate(np.random.default_rng([seed, 14]).permutation(len(tasks)))}
    chosen = sorted(range(len(sources.pairs)), key=lambda i: (rank[sources.pairs[i][0]], i))[:LIMIT]
    return sources.of([sources.pairs[i] for i in sorted(chosen)])


def gauge(sources: Sources) -> dict[str, Any]:
    """Whether solutions are compared at coordinates that their functions do not fix: by type the freedom, a sentence, and for LoRA how
    much the products say otherwise."""
    free = {label: SYMMETRIES[block.config.name] for label, block in sources.blocks.items() if block.config.name in SYMMETRIES}
    if sources.space == "product":  # a LoRA's product has no freedom left
        free = {label: what for label, what in free.items() if sources.blocks[label].config.name != "lora"}
    if sources.align != "none" or not free:
        return {"applies": False, "types": {}, "sentence": "", "product": {}}
    product = {label: _or_why(lambda label=label: _against_product(sources.only([label])))
               for label in free if sources.blocks[label].config.name == "lora"}
    listed = "; ".join(f"{label}: {what}" for label, what in free.items())
    sentence = (f"Solutions are compared number by number and were not aligned, although equal functions can have different numbers ({listed}). "
                "That is right for solutions that were trained from one θ0; of solutions from different starts, as other people's adapters "
                "are, what they share is lost: use --space product for a LoRA, or --align procrustes.")
    return {"applies": True, "types": free, "sentence": sentence, "product": product}


def _against_product(sources: Sources) -> dict[str, Any]:
    """The cosines between tasks of the one LoRA there is, of its factors and of its products."""
    from subspace.gram import centred
    from subspace.remembered import by_task
    from subspace.similarity import cosines, product_gram, task_cosines

    tasks, average = by_task(sources.pairs)
    (first,) = task_cosines(sources)[1].values()
    (block,) = sources.blocks.values()
    second = cosines(centred(average @ product_gram(block) @ average.T))
    above = np.triu_indices(len(tasks), 1)
    return {"correlation": float(np.corrcoef(first[above], second[above])[0, 1]) if len(tasks) > 3 else None,
            "mean_difference": float(np.abs(first[above] - second[above]).mean()), "mean_in_factors": float(first[above].mean()),
            "mean_in_products": float(second[above].mean())}


def _spectrum(sources: Sources, draws: int, seed: int) -> dict[str, Any]:
    from subspace.choosing import energies, gaussian_null, joint_spectrum, permutation_null

    nulls = [gaussian_null(sources, draws=draws, seed=seed)]
    if len(sources.labels) > 1:
        nulls.append(permutation_null(sources, draws=draws, seed=seed))
    return {"values": joint_spectrum(sources).tolist(), "energy": {label: e.tolist() for label, e in energies(sources).items()},
            "draws": draws, "nulls": {null.name: null.to_json() for null in nulls}}


def tried(most: int, k: int) -> list[int]:
    """Every k up to 8, then in steps of a quarter up to the largest, and the one that was chosen."""
    found = set(range(1, min(most, 8) + 1)) | {most}
    at = 8
    while (at := max(at + 1, round(at * 1.25))) < most:
        found.add(at)
    return sorted(found | ({k} if k <= most else set()))


def method_of(space: Subspace) -> tuple[str, DualFit, bool]:
    """The decomposition that is repeated on parts of the sources: the subspace's own where it has a dual form, else joint_svd."""
    from subspace import validation
    from subspace.gcca import dual as gcca
    from subspace.pca import dual as pca

    known: dict[str, tuple[str, DualFit, bool]] = {"gcca": ("gcca", gcca, True), "pca": ("pca", pca, False)}
    return known.get(space.method, ("joint_svd", validation.joint_dual, True))


def parts_of(sources: Sources, seed: int) -> tuple[Any, int]:
    """What is held out together, and the largest k that every training part spans."""
    from subspace.validation import held_out

    tasks = len({task for task, _ in sources.pairs})
    folds: Any = "leave_one_task_out" if tasks <= 64 else 16
    largest = max(len(part) for part in held_out(sources.pairs, folds, seed)) if tasks > 1 else 1
    return folds, len(sources.pairs) - largest - 1


def _held_out(space: Subspace, sources: Sources, ks: Sequence[int] | None, seed: int) -> dict[str, Any]:
    from subspace.validation import cross_validated, recommended

    folds, most = parts_of(sources, seed)
    tasks = len({task for task, _ in sources.pairs})
    name, method, nested = method_of(space)
    ks = tried(most, space.k) if ks is None else list(ks)
    options: dict[str, Any] = {"method": method, "nested": nested, "folds": folds, "seed": seed}
    found = cross_validated(sources, ks, **options)
    control = _or_none(lambda: cross_validated(sources, ks, shuffled=True, **options)) if found.across else None
    chosen, rows = recommended(found), []
    means = {across: (found.mean(across=across), found.mean_interval(across=across)) for across in ((True, False) if found.across else (False,))}
    for i, k in enumerate(found.ks):
        row: dict[str, Any] = {"k": k}
        for across, ((share, error), interval) in means.items():
            name_of = "across" if across else "within"
            row |= {name_of: float(share[i]), f"{name_of}_interval": interval[:, i].tolist(), f"{name_of}_error": float(error[i])}
        if control is not None:
            row |= {"shuffled": float(control.mean(across=True)[0][i]),
                    "difference_interval": found.mean_interval(across=True, less=control)[:, i].tolist()}
        rows.append(row)
    return {"method": name, "folds": folds, "tasks": tasks, "recommended": {"k": chosen.k, "best": chosen.best, "reason": chosen.reason},
            "means": rows, "rows": found.rows(), "control": control.rows() if control is not None else []}


def _or_none(part: Callable[[], Any]) -> Any:
    try:
        return part()
    except InputError:  # one task has most of the solutions, and cannot be paired wrongly
        return None


def _stability(space: Subspace, sources: Sources, seed: int) -> dict[str, Any]:
    from subspace.stability import over_halves, over_seeds

    # half of what a half of the tasks spans: a k near all of it leaves nothing to choose
    k = max(1, min(space.k, len(sources.pairs) // 4))
    name, method, _ = method_of(space)

    def of(compare: Callable[..., Any]) -> dict[str, Any]:
        return {"k": k, "method": name, "types": {label: a.to_json() for label, a in compare(sources, k, method=method, seed=seed).items()}}

    return {"halves": _or_why(lambda: of(over_halves)), "seeds": _or_why(lambda: of(over_seeds))}


def _tasks(sources: Sources) -> dict[str, Any]:
    from subspace.similarity import clustered, task_cosines

    tasks, found = task_cosines(sources)
    order = clustered(sum(found.values(), np.zeros((len(tasks),) * 2)) / len(found))
    return {"names": tasks, "order": order.order.tolist(), "linkage": order.linkage.round(6).tolist(),
            "cosines": {label: matrix.round(4).tolist() for label, matrix in found.items()}}


def _types(space: Subspace, sources: Sources, permutations: int, seed: int) -> dict[str, Any]:
    from subspace.similarity import type_similarity

    if len(sources.labels) < 2:
        return {"skipped": "there is one delta type, and no other to compare it with"}
    k = max(1, min(space.k, len({task for task, _ in sources.pairs}) // 2))
    return {"k": k, "permutations": permutations, "pairs": type_similarity(sources, k, permutations=permutations, seed=seed)}


def _map(space: Subspace, method: str, seed: int) -> dict[str, Any]:
    from subspace.maps import code_points, task_map

    found = task_map(code_points(space), method=method, seed=seed)  # type: ignore[arg-type]
    return {"points": found.points.round(6).tolist(), "share": found.share, "settings": found.settings}


def draw(figures: Path, space: Subspace, found: Mapping[str, Any], categories: Mapping[str, str]) -> list[Path]:
    """The figures for which there are numbers."""
    import landscape

    written, marked = [], space.k if space.k < len(space.pairs) else None
    spectrum, held, tasks, types = (found[name] for name in ("spectrum", "held_out", "tasks", "types"))
    if "values" in spectrum:
        written.append(landscape.spectra(spectrum["values"], spectrum["nulls"], figures / "spectra.png", energy=spectrum["energy"], k=marked))
    if "rows" in held:
        written.append(landscape.reconstruction(held["rows"], figures / "reconstruction.png", control=held["control"], k=marked))
    if found.get("scores", {}).get("rows"):
        written.append(landscape.reconstruction(found["scores"]["rows"], figures / "scores.png", control=found["scores"]["control"], k=marked,
                                                ylabel="score on held-out tasks, normalised"))
    angles = {title: found["stability"][name]["types"] for name, title in (("halves", "halves of the tasks"), ("seeds", "two seeds"))
              if "types" in found["stability"][name]}
    if angles:
        written.append(landscape.angles(angles, figures / "angles.png"))
    if "pairs" in types:
        written.append(landscape.agreement(types["pairs"], figures / "agreement.png"))
    if "names" in tasks:
        matrices = {label: np.array(matrix) for label, matrix in tasks["cosines"].items()}
        written.append(landscape.similarities(matrices, tasks["names"], figures / "tasks.png", order=tasks["order"],
                                              linkage=np.array(tasks["linkage"]), categories=categories))
    for method, points in found["maps"].items():
        if "points" in points:
            axes = None if method != "pca" else ("first principal component of z", "second principal component of z")
            written.append(landscape.draw_map(np.array(points["points"]), space.pairs, figures / f"map-{method}.png", categories=categories,
                                              axes=axes))
    return written

"""What commands are given to decompose: a bank's folder, or folders of other libraries' adapters."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from subspace import Sources


def is_bank(given: Sequence[str]) -> bool:
    """Whether one bank was given."""
    return len(given) == 1 and (Path(given[0]) / "theta0").is_dir()


def sources_of(given: Sequence[str], *, labels: Sequence[str] | None, missing: bool, task_of: str | None, space: str | None) -> "Sources":
    """The sources of a bank or of folders.

    Args:
        given: a bank's folder, or patterns of folders.
        labels: delta types; None is all.
        missing: take sources too for which only some types have a solution.
        task_of: of folders, see `gather_folders`.
        space: factors or product; None is a bank's factors and the folders' products.
    """
    import subspace
    from deltas import Bank
    from deltas.errors import InputError

    if is_bank(given):
        if task_of is not None:
            raise InputError(f"expected folders of adapters with --task-of, got the bank {given[0]}; leave it out")
        sources = subspace.gather(Bank(given[0]), labels, missing=missing)
        return subspace.in_product_space(sources) if space == "product" else sources
    sources = subspace.gather_folders(given, space=space or "product", labels=labels, task=task_of)
    if missing or sources.complete:
        return sources
    whole = [pair for i, pair in enumerate(sources.pairs) if all(i in block.members for block in sources.blocks.values())]
    if not whole:
        raise InputError(f"expected tasks that {', '.join(sources.labels)} all have, got none; name the task in the folders' names with "
                         "--task-of, choose one type with --labels, or take what there is with --missing")
    return sources.of(whole)

"""Attach deltas to the sites of a backbone and take them off again."""

import difflib
import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flax import nnx

from deltas.backbones.sites import Part, Site
from deltas.errors import InputError


def sites(module: nnx.Module) -> dict[str, Site]:
    """Every site of the module by name (`encoder.3.attn.q`), in the order of the module's own structure."""
    found = {".".join(map(str, path)): node for path, node in nnx.iter_modules(module)
             if isinstance(node, Site) and "attached" not in path}
    return dict(sorted(found.items(), key=lambda item: natural(item[0])))


def natural(name: str) -> tuple[tuple[int, int | str], ...]:
    """A key that sorts names with their numbers as numbers: layer 2 before layer 10."""
    return tuple((0, int(word)) if word.isdigit() else (1, word) for word in re.split(r"[.]", name))


def select(names: Iterable[str], patterns: Sequence[str], exclude: Sequence[str] = ()) -> list[str]:
    """The names that match a pattern and no exclusion, in their own order.

    A pattern is the dotted end of a name (`attn.q`), a glob over the whole name (`encoder.*.attn.?`), or a regular expression over the
    whole name after `re:`.

    Raises:
        InputError: a pattern matches nothing (the nearest names are given), or the exclusions leave nothing.
    """
    names = list(names)
    chosen: set[str] = set()
    for pattern in patterns:
        matched = [name for name in names if _matches(name, pattern)]
        if not matched:
            tails = {".".join(name.split(".")[-n:]) for name in names for n in (1, 2)} | set(names)
            near = difflib.get_close_matches(pattern, sorted(tails), n=3, cutoff=0.3)
            raise InputError(f"expected a pattern that matches a site, got {pattern!r}, which matches none; "
                             f"nearest: {', '.join(near) or ', '.join(sorted(tails)[:3])}")
        chosen |= set(matched)
    kept = [name for name in names if name in chosen and not any(_matches(name, pattern) for pattern in exclude)]
    if not kept:
        raise InputError(f"expected at least one site for {', '.join(patterns) or 'no pattern'}, got none after excluding "
                         f"{', '.join(exclude) or 'nothing'}; exclude less")
    return kept


def _matches(name: str, pattern: str) -> bool:
    if pattern.startswith("re:"):
        try:
            return re.fullmatch(pattern[3:], name) is not None
        except re.error as error:
            raise InputError(f"expected a regular expression after re:, got {pattern!r} ({error}); mend it") from None
    if any(c in pattern for c in "*?["):
        return fnmatch.fnmatchcase(name, pattern)
    return name == pattern or name.endswith("." + pattern)


def attach(module: nnx.Module, name: str, parts: Mapping[str, Part]) -> None:
    """Add `parts` (site name → part) to the module's sites under the delta's `name`."""
    places = sites(module)
    for site in parts:  # all before any: a refusal leaves the module as it was
        if site not in places:
            raise InputError(f"expected a site of the module, got {site!r}; choose among deltas.sites(module)")
        places[site].check_free(name)
    for site, part in parts.items():
        places[site].attach(name, part)


def detach(module: nnx.Module, name: str) -> None:
    """Take the delta `name` off every site that has it; whatever else is attached stays as it was."""
    holders = [site for site in sites(module).values() if name in site.order]
    if not holders:
        attached = sorted({other for site in sites(module).values() for other in site.order})
        raise InputError(f"expected the name of an attached delta, got {name!r}; attached: {', '.join(attached) or 'none'}")
    for site in holders:
        site.detach(name)


def own(module: nnx.Module) -> Any:
    """A second module over the same arrays: attaching to it leaves the first as it is, and no weight is copied."""
    return nnx.merge(*nnx.split(module))

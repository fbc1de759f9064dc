"""Attach deltas to the sites of a backbone and take them off again."""

import difflib
import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from deltas.backbones.blocks import Attention, Entry
from deltas.backbones.sites import Delta, Part, Site
from deltas.backbones.transformer import Transformer
from deltas.errors import InputError
from deltas.opening import open_sites


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


def attach(module: nnx.Module, delta: Any, parts: Mapping[str, Part] | None = None, *, name: str = "", seed: int = 0) -> None:
    """Add a delta to a module's sites, after those that are there.

    Args:
        module: a backbone's module, or any `flax.nnx` module, whose linear maps become sites.
        delta: a delta type, whose parameters are drawn from `seed`; a `Solution`, which brings its own; or a name, with `parts` by site.
        name: under which the delta is attached and detached (default: the type's label).

    Raises:
        InputError: a pattern that matches no site, a name that is taken, a type that starts from real text.

    Example:
        deltas.attach(model, deltas.LoRA(rank=4, sites=("query", "value")))
    """
    values: Mapping[str, jax.Array] = {}
    if parts is None:
        config = getattr(delta, "config", delta)
        if not isinstance(module, Transformer):
            open_sites(module)
        name, places = name or config.label, sites(module)
        chosen = {site: places[site] for site in config.choose(places)}
        values = {} if delta is config else delta.layout.unflatten(jnp.asarray(delta.theta))
        built = config.build(chosen, jax.random.key(seed), no_probe(chosen) if values else _no_text)
    else:
        built, name, places = parts, delta, sites(module)
    for site in built:  # all before any: a refusal leaves the module as it was
        if site not in places:
            raise InputError(f"expected a site of the module, got {site!r}; choose among deltas.sites(module)")
        places[site].check_free(name)
    for site, part in built.items():
        places[site].attach(name, part)
    if values:
        paths = {parameter_name(path): path for path, _ in nnx.to_flat_state(nnx.state(module, belongs_to(name)))}
        nnx.update(module, nnx.from_flat_state([(paths[n], Delta(value)) for n, value in values.items()]))


def belongs_to(name: str) -> Callable[[Any, Any], bool]:
    """A filter of `flax.nnx`: the parameters of the attached delta `name`."""
    return lambda path, variable: isinstance(variable, Delta) and "attached" in path and path[path.index("attached") + 1] == name


def parameter_name(path: tuple[Any, ...]) -> str:
    """A delta's parameter by its site and its own name: its path without the site's table and the delta's name."""
    at = path.index("attached")
    return ".".join(map(str, (*path[:at], *path[at + 2 :])))


def no_probe(chosen: Mapping[str, Any]) -> Any:
    """A probe of zeros, where the initial values are given."""
    return lambda length: {
        name: (jnp.zeros((length, site.d)),) if isinstance(site, Entry) else (jnp.zeros((length, site.kv_heads, site.head_dim)),) * 2
        for name, site in chosen.items() if isinstance(site, Attention | Entry)}


def _no_text(length: int) -> Any:
    raise InputError("expected a delta type that starts from numbers, got one that starts from real text, which a module alone cannot read; "
                     "set its start to 'normal', or attach a trained solution")


def detach(module: nnx.Module, name: str) -> None:
    """Take the delta `name` off every site that has it; whatever else is attached stays as it was."""
    for site in _holders(module, name, lambda site: site.order):
        site.detach(name)


def merge(module: nnx.Module, name: str) -> None:
    """Write the attached delta `name` into the weights of its sites: the module computes the same without it.

    Weights take in first what changes them, then what acts on their output, then factors on the input, each in the order of attaching; a
    delta that another on its site must precede is refused. The weights of before are kept, for `unmerge`.

    Raises:
        InputError: no such delta, another that comes before it, or a delta that is no change of weights (adapters, prefixes, prompts).
    """
    holders = _holders(module, name, lambda site: site.order)
    for site in holders:  # all before any
        site.check_merge(name)
    for site in holders:
        site.merge(name)


def unmerge(module: nnx.Module, name: str) -> None:
    """Take the delta `name`, the last that was merged, out of the weights again, bit for bit, and attach it where it was."""
    holders = _holders(module, name, Site.inside)
    for site in holders:
        if (last := site.inside()[-1]) != name:
            raise InputError(f"expected the delta that was merged last, got {name}, which {last} was merged after; unmerge that one first")
    for site in holders:
        site.unmerge(name)


def _holders(module: nnx.Module, name: str, names: Callable[[Site], Sequence[str]]) -> list[Site]:
    """The sites that have the delta `name`."""
    found = [site for site in sites(module).values() if name in names(site)]
    if not found:
        known = sorted({other for site in sites(module).values() for other in names(site)})
        what = "merged" if names is Site.inside else "attached"
        raise InputError(f"expected the name of a delta that is {what}, got {name!r}; {what}: {', '.join(known) or 'none'}")
    return found


def own(module: nnx.Module) -> Any:
    """A second module over the same arrays: attaching to it leaves the first as it is, and no weight is copied."""
    return nnx.merge(*nnx.split(module))

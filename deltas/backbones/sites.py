"""Sites: the named places of a backbone where deltas attach.

A site keeps an ordered table of attached parts, empty at first, so attaching never wraps or patches a module. What a part can do there:

    weights   the site's own weights as they are used: all parts' in turn, before anything is computed from them;
    input     what enters a linear site, x ← part.input(x);
    output    what leaves a linear, norm or sublayer site, y ← part.output(x, y);
    joined    what a sublayer is about to add to the residual stream, y ← part.joined(y, residual, norm);
    rows      keys and values to the left of position 0 of an attention site;
    reweigh   the attention that its rows get, w ← part.reweigh(w);
    tokens    embedded tokens before the first of a stack's entry, and how many positions the others move.

Each hook runs through the parts in the order of attaching. Attaching adds an entry and detaching deletes it, in any order; what remains is
exactly what was there.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import jax
from flax import nnx

from deltas.errors import InputError

Weights = dict[str, Any]
"""A site's own parameters by name: arrays, or None where it has none (a linear map without a bias)."""
Norm = Callable[[jax.Array], jax.Array]


class Delta(nnx.Param):
    """A parameter of an attached delta: the only variables of a backbone that are ever trained."""


class Part(nnx.Module):
    """What one delta adds at one site. A delta type overrides the hooks that it needs."""

    def weights(self, own: Weights) -> Weights:
        """The site's weights as this part changes them."""
        return own

    def input(self, x: jax.Array) -> jax.Array:
        """What the site reads instead of x [..., in]."""
        return x

    def output(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """The site's new output [..., out] from its input x [..., in] and the output so far y [..., out]."""
        return y

    def joined(self, y: jax.Array, residual: jax.Array, norm: Norm | None) -> jax.Array:
        """What joins the residual stream [..., d] instead of y; `norm` is the one after the sum, where the block has one there."""
        return y

    def rows(self) -> tuple[jax.Array, jax.Array] | None:
        """Keys and values [P, heads, head_dim] put before the first position, or None."""
        return None

    def reweigh(self, own: jax.Array) -> jax.Array:
        """The weights [B, heads, S, P] that its rows are mixed with, from those that the softmax over all rows and tokens gave them."""
        return own

    def tokens(self) -> jax.Array | None:
        """Embedded tokens [P, d] put before the first token, or None."""
        return None

    def shift(self) -> int:
        """By how many positions the tokens stand further right, tokens put before them aside."""
        return 0

    def stages(self) -> set[int]:
        """When a site's weights can take the part in, whatever the order of attaching: 0 what changes weights, 1 what acts on the output of
        those weights, 2 the factors on the input, which multiply all that reads it."""
        kind = type(self)
        return {0 if kind.weights is not Part.weights else 2 if kind.input is not Part.input else 1}

    def merged(self, own: Weights) -> Weights:
        """The weights of a site that computes without this part what it computes with it.

        Raises:
            InputError: no weights do that.
        """
        if type(self).weights is Part.weights:
            raise InputError(f"expected a delta that is a change of weights, to merge it, got {type(self).__name__}; keep it attached")
        return self.weights(own)


def reweighed(parts: Sequence[Part], weights: jax.Array) -> jax.Array:
    """Attention weights [B, heads, S, P (+ K)] after every part, each at its own rows: those of the first part come first."""
    first = 0
    for part in parts if any(type(part).reweigh is not Part.reweigh for part in parts) else ():
        if (rows := part.rows()) is not None:
            last = first + rows[0].shape[0]
            weights = weights.at[..., first:last].set(part.reweigh(weights[..., first:last]))
            first = last
    return weights


class Merged(nnx.Module):
    """A part that is merged into its site's weights, and those before it."""

    def __init__(self, part: Part, place: int, before: Weights) -> None:
        self.part, self.place = part, place
        self.before = nnx.Dict({name: nnx.Param(value) for name, value in before.items() if value is not None})


class Site(nnx.Module):
    """A place of a backbone with its table of attached parts."""

    own: ClassVar[tuple[str, ...]] = ()
    """The names of the site's own parameters, those it could have included."""

    def __init__(self) -> None:
        self.attached = nnx.Dict({})
        self.order: tuple[str, ...] = ()  # flax sorts the keys of a table; deltas apply in the order of attaching

    def attach(self, name: str, part: Part) -> Self:
        """Add `part` under `name`, after the parts already here."""
        self.check_free(name)
        self.attached[name] = part
        self.order = (*self.order, name)
        return self

    def check_free(self, name: str) -> None:
        """Refuse a name that a part here has already."""
        if name in self.order or name in self.inside():
            raise InputError(f"expected a new name for a delta, got {name!r}, which is attached already; detach it first")

    def detach(self, name: str) -> Self:
        """Remove the part `name`; the others keep their order."""
        del self.attached[name]
        self.order = tuple(other for other in self.order if other != name)
        return self

    # ------------------------------------------------------------ merging
    def inside(self) -> list[str]:
        """The names of the parts that are merged into the weights, in order."""
        return [key.partition(" ")[2] for key in getattr(self, "merged", {})]

    def merge(self, name: str) -> None:
        """Write the part `name` into the weights; the weights before it are kept."""
        self.check_merge(name)
        part, place, before = self.attached[name], self.order.index(name), self.plain()
        after = part.merged(before)
        self.detach(name)
        if not hasattr(self, "merged"):
            self.merged = nnx.Dict({})
        number = f"{len(self.merged):03d} "  # flax sorts the keys of a table
        self.merged[number + name] = Merged(part, place, before)
        self.set(after)

    def check_merge(self, name: str) -> None:
        """Refuse a part that is no change of weights, or that another part, still attached, must be merged before."""
        place, last = self.order.index(name), max(self.attached[name].stages())
        for at, other in enumerate(self.order):
            if other != name and (min(self.attached[other].stages()), at) < (last, place):
                raise InputError(f"expected {name} to be the first that the weights can take in, got {other} before it; merge that one first")
        self.attached[name].merged(self.plain())

    def unmerge(self, name: str) -> None:
        """Take the part `name`, the last that was merged, out of the weights again, which are bit for bit those of before."""
        *_, last = self.merged
        kept = self.merged[last]
        self.set({n: None if (variable := kept.before.get(n)) is None else variable[...] for n in self.own})
        del self.merged[last]
        if not self.merged:
            del self.merged
        self.attached[name] = kept.part
        self.order = (*self.order[: kept.place], name, *self.order[kept.place :])

    def set(self, weights: Weights) -> None:
        """Replace the site's own weights; a module that shares the old ones keeps them."""
        for name, value in weights.items():
            delattr(self, name)  # flax remembers of an attribute whether it held data
            setattr(self, name, None if value is None else nnx.Param(value))

    # ------------------------------------------------------------ what the parts do
    def parts(self) -> list[Any]:
        """The attached parts, in order."""
        return [self.attached[name] for name in self.order]

    def shapes(self) -> dict[str, tuple[int, ...] | None]:
        """The shapes of the site's own weights, as parts see them."""
        return {name: None if (variable := getattr(self, name)) is None else variable.shape for name in self.own}

    def plain(self) -> Weights:
        """The site's own weights, whatever is attached."""
        return {name: None if (variable := getattr(self, name)) is None else variable[...] for name in self.own}

    def weights(self) -> Weights:
        """The site's weights after every attached part."""
        values = self.plain()
        for part in self.parts():
            values = part.weights(values)
        return values

    def entering(self, x: jax.Array) -> jax.Array:
        """x after every attached part."""
        for part in self.parts():
            x = part.input(x)
        return x

    def through(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """y after every attached part, in order."""
        for part in self.parts():
            y = part.output(x, y)
        return y

    def joining(self, y: jax.Array, residual: jax.Array, norm: Norm | None) -> jax.Array:
        """What joins the residual stream after every attached part."""
        for part in self.parts():
            y = part.joined(y, residual, norm)
        return y

"""Sites: the named places of a backbone where deltas attach.

A site keeps an ordered table of attached parts, empty at first, so attaching never wraps or patches a module:

    a linear or sublayer site maps its input x and output y through every part in turn,  y ← part.output(x, y);
    an attention site also lets each part put rows of keys and values to the left of position 0, part.rows().

Attaching adds an entry and detaching deletes it, in any order; what remains is exactly what was there.
"""

from typing import Self

import jax
from flax import nnx

from deltas.errors import InputError


class Delta(nnx.Param):
    """A parameter of an attached delta: the only variables of a backbone that are ever trained."""


class Part(nnx.Module):
    """What one delta adds at one site. A delta type overrides the hooks that it needs."""

    def output(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """The site's new output [..., out] from its input x [..., in] and the output so far y [..., out]."""
        return y

    def rows(self) -> tuple[jax.Array, jax.Array] | None:
        """Keys and values [P, heads, head_dim] put before the first position, or None."""
        return None


class Site(nnx.Module):
    """A place of a backbone with its table of attached parts."""

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
        if name in self.order:
            raise InputError(f"expected a new name for a delta, got {name!r}, which is attached already; detach it first")

    def detach(self, name: str) -> Self:
        """Remove the part `name`; the others keep their order."""
        del self.attached[name]
        self.order = tuple(other for other in self.order if other != name)
        return self

    def through(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """y after every attached part, in order."""
        for name in self.order:
            y = self.attached[name].output(x, y)
        return y

"""The decompositions that a study or a command can name: `method`, `method@layer` or `method@module`, and `method/12` for 12 source tasks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

if TYPE_CHECKING:
    from subspace import Subspace
    from subspace.sources import Pair, Sources

Granularity = Literal["whole", "layer", "module"]
CLOSED = ("joint_svd", "gcca", "pca")
LEARNED = ("autoencoder", "refined")
CONTROLS = ("mean_only", "random_basis", "fastfood", "shuffled")


@dataclass(frozen=True, kw_only=True)
class Method:
    """A decomposition or control, its granularity, and of how many source tasks (None: all)."""

    name: str
    granularity: Granularity = "whole"
    tasks: int | None = None

    @classmethod
    def of(cls, text: str, choices: Sequence[str]) -> "Method":
        """From `name[@granularity][/tasks]`; what is not known is refused."""
        from deltas.errors import InputError

        whole, slash, tasks = text.partition("/")
        name, at, granularity = whole.partition("@")
        granularity = granularity or ("" if at else "whole")
        if name not in choices or granularity not in get_args(Granularity) or (slash and not tasks.isdecimal()):
            raise InputError(f"expected one of {', '.join(choices)}, with @layer or @module where every layer or module has a z of its own, "
                             f"got {text!r}; choose among them")
        if name in LEARNED and granularity != "whole":
            raise InputError(f"expected {name} of the whole delta, got {text!r}; leave @{granularity} away")
        return cls(name=name, granularity=cast(Granularity, granularity), tasks=int(tasks) if tasks else None)

    def __str__(self) -> str:
        return self.name + (f"@{self.granularity}" if self.granularity != "whole" else "") + (f"/{self.tasks}" if self.tasks else "")

    @property
    def file(self) -> str:
        """As a file's name."""
        return str(self).replace("/", "-of-")


def closed(method: Method, sources: "Sources", k: int, seed: int) -> "Subspace":
    """A method that needs neither backbone nor tasks."""
    import subspace

    fits: dict[str, Callable[..., Subspace]] = {
        "joint_svd": subspace.joint_svd, "gcca": subspace.gcca, "pca": subspace.pca, "mean_only": subspace.mean_only,
        "random_basis": subspace.random_basis, "fastfood": subspace.random_basis, "shuffled": subspace.shuffled}
    options: dict[str, Any] = {"seed": seed} if method.name in ("random_basis", "fastfood", "shuffled") else {}
    if method.name == "fastfood":
        options["kind"] = "fastfood"
    return subspace.by_group(fits[method.name], sources, k, granularity=method.granularity, **options)


def nested(pairs: "Sequence[Pair]", tasks: int, seed: int) -> "list[Pair]":
    """The sources of `tasks` source tasks, drawn in one random order: those of fewer are among those of more."""
    import numpy as np

    names = sorted({task for task, _ in pairs})
    kept = {names[i] for i in np.random.default_rng([seed, 6]).permutation(len(names))[:tasks]}
    return [pair for pair in pairs if pair[0] in kept]

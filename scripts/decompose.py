"""`deltaspace decompose`: a bank's solutions, or folders of adapters, into one shared subspace."""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from .gathering import is_bank, sources_of
from .methods import CLOSED, CONTROLS, LEARNED, Granularity, Method, closed
from .options import OnTasks, use_devices

if TYPE_CHECKING:
    from deltas import Backbone, Reading, Task
    from subspace import Sources, Subspace

    from .progress import Bar, Bars

    Loaded = tuple[Backbone, list[Task], Reading]


@dataclass(frozen=True, kw_only=True)
class Decompose(OnTasks):
    """Decompose solutions jointly, and say how far the result is to be trusted: spectra against chance, held-out tasks, likeness of tasks and
    of types.

    The autoencoder, the refined decoders and --score alone run the backbone on the tasks; the others read only the solutions.
    """

    bank: Annotated[tuple[str, ...], tyro.conf.Positional]
    """A bank's folder; or folders of PEFT or AdapterHub adapters, as patterns too: 'adapters/*'."""
    out: Path
    """Where the subspace, summary.json, report.html and figures are written."""
    k: int
    """Dimension of the subspace, at most the number of (task, seed) pairs minus one (the autoencoder from a random start: any)."""
    method: Literal["joint_svd", "gcca", "pca", "autoencoder", "refined", "mean_only", "random_basis", "fastfood", "shuffled"] = "joint_svd"
    """A decomposition, or a control."""
    granularity: Granularity = "whole"
    """k numbers for the whole delta, or for every layer, or for every module (attention, feed-forward) of each layer."""
    space: Literal["factors", "product"] | None = None
    """What is compared: the deltas' factors, or for a LoRA the product ΔW = AB, in which no gauge is left. Where not given: factors of a
    bank, whose solutions share θ0; products of adapters, which do not."""
    align: Literal["none", "canonical", "procrustes"] = "none"
    """factors: how solutions of one type are brought to one gauge or one order of units first."""
    relative: bool | None = None
    """align: whether the backbone has relative positions, as T5 has; there the slots of a prefix in self-attention are not alike."""
    labels: tuple[str, ...] = ()
    """Delta types by label; all where none is named."""
    missing: bool = False
    """Take sources too for which only some of the types have a solution."""
    task_of: str | None = None
    """adapters: a regular expression whose first group is the task in a folder's name, so that types are paired: '(.*)-lora'."""
    sharded: bool = False
    """Share the columns of the solutions out over JAX's devices (see --cpu-devices), and over hosts where there are several."""
    coordinator: str | None = None
    """sharded, several hosts: address:port of the first, the same on all; every host runs this command and reads its share of every file."""
    hosts: int = 1
    """sharded: how many there are."""
    host: int = 0
    """sharded: which of them this is; host 0 writes."""
    report: bool = True
    """Write report.html, figures and what they show; without, the subspace alone."""
    score: bool = False
    """Run the backbone on what the space of the other tasks makes of each held-out task: its score against k, in the report."""
    dev_rows: int | None = None
    """score: dev rows of a task; all where not given."""
    maps: tuple[Literal["pca", "tsne", "umap"], ...] = ("pca", "tsne")
    """Maps of the tasks in z; umap needs the extra [maps]."""
    categories: Path | None = None
    """A JSON file {task: category}, the colours of the map of tasks."""
    setting: Literal["single", "multi"] = "multi"
    """autoencoder: one task, or many with their own mix of the types an example."""
    start: Literal["joint_svd", "random"] = "joint_svd"
    """autoencoder: where the projections start."""
    simplex: Literal["dirichlet", "stick_breaking"] = "dirichlet"
    """autoencoder: how a mix of the types is drawn."""
    reconstruction: Literal["norm", "mean_square"] = "norm"
    """autoencoder: how the distance to a solution counts."""
    alpha: float | None = None
    """autoencoder: weight of the reconstruction; that of the setting where not given."""
    learning_rate: float | None = None
    """autoencoder: of Adafactor (1e-4 where not given); refined: of Adam, as a share of the size of each type's directions (0.005)."""
    agreement: float = 0.0
    """refined: weight of the types' agreement at mixes of two sources' codes."""
    steps: int = 400
    """autoencoder, refined: updates."""
    seed: int = 0
    """Of the controls', the nulls' and the learned methods' draws."""

    def run(self) -> None:
        """Gather, fit, check that nothing changed meanwhile, save, and say how much of the solutions the subspace holds."""
        import shutil

        from deltas.bank import versions
        from deltas.files import read_json, write_json
        from subspace.gram import resumable
        from subspace.growth import METHODS as GROWING
        from subspace.growth import with_grams
        from subspace.remembered import duplicates, remembered
        from subspace.sharded import sharded

        from . import decompose_report
        from .progress import Bars

        method = Method.of(f"{self.method}@{self.granularity}" if self.granularity != "whole" else self.method, (*CLOSED, *LEARNED, *CONTROLS))
        categories = {} if self.categories is None else read_json(self.categories)
        self._join()
        bars, state = Bars(), self.out / "state"
        with bars.stage("gather", 1) as bar:
            sources = self.gathered()
            bar()
        loaded = self.load() if self.method in LEARNED or self.score else None
        if loaded is not None and self.score:
            from subspace.held_out_scores import answerable

            answerable(sources, *loaded, rows=self.dev_rows)  # refuses before any work
        try:
            with bars.stage("decompose", self.steps if self.method in LEARNED else 1) as bar:
                kept = remembered(resumable(sharded(sources) if self.sharded else sources, state))
                space = self._learned(kept, loaded, state, bar) if loaded and self.method in LEARNED else closed(method, kept, self.k, self.seed)
                sources.unchanged()
                if self.method in GROWING and self.granularity == "whole":
                    space = with_grams(space, kept)  # what `extend` needs not to compute them again
                if self.host == 0:
                    space.save(self.out)
        finally:
            with contextlib.suppress(OSError):
                state.rmdir()  # unless there is something to go on from
        twice = duplicates(kept)
        if self.host:
            return
        summary = {**space.describe(), "manifest": list(sources.manifest), "duplicates": twice, "versions": versions()}
        if self.report:
            scores = self._scored(space, kept, loaded, state, bars) if loaded and self.score else None
            with bars.stage("report", 1) as bar:
                summary |= decompose_report.write(self.out, space, kept, categories=categories, maps=self.maps, seed=self.seed, scores=scores)
                bar()
        write_json(self.out / "summary.json", {**summary, "seconds": bars.seconds})
        shutil.rmtree(state, ignore_errors=True)
        left = [entry for entry in sources.manifest if entry["status"] != "used"]
        print(f"{method} of {len(space.pairs)} sources × {len(space.labels)} types ({', '.join(space.labels)}), k = {space.k}, {space.space}, "
              f"align {space.align}, in {self.out}")
        if left:
            print(f"{len(left)} left out, the first: {left[0]['path'] or left[0]['task']}: {left[0]['reason']} (all in summary.json)")
        if twice:
            label, (first, a), (second, b) = twice[0]
            print(f"{len(twice)} solutions are there twice and count twice, the first: {first}, seed {a}, and {second}, seed {b}, of {label}")
        if self.report and summary["trust"]["gauge"]["sentence"]:
            print(summary["trust"]["gauge"]["sentence"])

    def _join(self) -> None:
        """Make the devices, and meet the other hosts."""
        from deltas.errors import InputError

        if self.score and (not self.report or self.sharded or not is_bank(self.bank)):
            raise InputError(f"expected a bank on one host, and a report, with --score, which runs the backbone, got {', '.join(self.bank)}"
                             f"{' with --sharded' * self.sharded}{' with --no-report' * (not self.report)}; leave --score out")
        if not self.sharded:
            if self.coordinator is not None or self.hosts != 1 or self.host:
                raise InputError("expected --sharded with --coordinator, --hosts and --host, got them without; add it, or leave them out")
            return
        if self.method in LEARNED:
            raise InputError(f"expected a closed form to share out over devices, got {self.method}, which runs the backbone; leave "
                             "--sharded out")
        if (self.coordinator is None) != (self.hosts == 1) or not 0 <= self.host < self.hosts:
            raise InputError(f"expected --coordinator, and a --host below --hosts, where there are several hosts, got coordinator "
                             f"{self.coordinator}, host {self.host} of {self.hosts}; give all three on every host")
        use_devices(self.cpu_devices)
        if self.coordinator is not None:
            import jax

            jax.distributed.initialize(self.coordinator, self.hosts, self.host)

    def gathered(self) -> "Sources":
        """The sources: of the bank, or of the adapters in the folders; in product space or aligned where that is wanted."""
        import subspace
        from deltas.errors import InputError

        if self.method in LEARNED and not is_bank(self.bank):
            raise InputError(f"expected a bank for {self.method}, which runs the backbone, got {', '.join(self.bank)}; bring the adapters into "
                             "a bank with `deltaspace convert`, or choose joint_svd")
        sources = sources_of(self.bank, labels=list(self.labels) or None, missing=self.missing, task_of=self.task_of, space=self.space)
        if self.names:
            for name in self.names:
                if name not in {task for task, _ in sources.pairs}:
                    raise InputError(f"expected sources of {name} in {sources.name}, got none that can be used; train or name others")
            sources = sources.of([pair for pair in sources.pairs if pair[0] in self.names])
        return subspace.aligned(sources, self.align, relative=self.relative)

    def _scored(self, space: "Subspace", sources: "Sources", loaded: "Loaded", state: Path, bars: "Bars") -> dict[str, Any]:
        from . import decompose_scores

        with bars.stage("score", len(sources.pairs)) as bar:
            found = decompose_scores.score(space, sources, *loaded, rows=self.dev_rows, kept=state, seed=self.seed, on_progress=bar.listener())
        return decompose_scores.table(found)

    def _learned(self, sources: "Sources", loaded: "Loaded", state: Path, bar: "Bar") -> "Subspace":
        backbone, tasks, reading = loaded
        import deltas
        import subspace

        bank = deltas.Bank(self.bank[0])
        attached = {label: deltas.attached_from(bank, backbone, label) for label in sources.labels}

        def tell(step: int, log: Any) -> None:
            bar.to(step)

        if self.method == "refined":
            rate = 0.005 if self.learning_rate is None else self.learning_rate
            settings = subspace.Refine(learning_rate=rate, agreement=self.agreement, steps=self.steps, seed=self.seed)
            return subspace.refine(subspace.joint_svd(sources, self.k), attached=attached, tasks=tasks, reading=reading, settings=settings,
                                   checkpoint=state / "refined.safetensors", on_step=tell)
        learned = subspace.Autoencoder(setting=self.setting, start=self.start, simplex=self.simplex, reconstruction=self.reconstruction,
                                       alpha=self.alpha, learning_rate=1e-4 if self.learning_rate is None else self.learning_rate,
                                       steps=self.steps, seed=self.seed)
        return subspace.autoencoder(sources, self.k, attached=attached, tasks=tasks, reading=reading, settings=learned,
                                    checkpoint=state / "autoencoder.safetensors", on_step=tell)

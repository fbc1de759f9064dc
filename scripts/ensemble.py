"""`deltaspace ensemble`: starts for new tasks as weighted means of a bank's solutions, then few-shot training from each."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from .options import OnTasks, load_tasks, parse_type, use_devices

if TYPE_CHECKING:
    from deltas import Bank

    from .ensemble_stages import Ensembling

SCORED = ("loss", "kl", "el2n", "cosine", "grand", "weight_cosine", "drift", "dev_gain")
"""Methods that score every source and weigh by softmax."""
METHODS = ("uniform", "category", "nearest", *SCORED, "learned", "code")


@dataclass(frozen=True, kw_only=True)
class Ensemble(OnTasks):
    """Weigh a bank's solutions by how near each is to a new task, start from their weighted mean, and tune on a few rows; every task of the
    bank in turn is the new one. Run again, it goes on where it stopped."""

    bank: Annotated[Path | None, tyro.conf.Positional] = None
    """The bank's folder; where not given, solutions are trained first, into OUT/bank."""
    out: Path
    """The folder of results: study.toml, results.csv, summary.json, report.html, figures/."""
    label: str | None = None
    """The bank's delta type; its only one where not given."""
    type: str = "lora"
    """Without a bank: the delta type to train, with settings if wanted (lora:rank=4)."""
    source_steps: int = 100
    """Without a bank: updates of each source solution, on all its training rows."""
    targets: tuple[str, ...] = ()
    """New tasks; where none is named, every source in turn, which is left out of the sources then."""
    methods: tuple[str, ...] = METHODS
    """How sources are weighed: uniform, category (the mean of the target's own), nearest (the source of least dev loss alone), softmax of loss,
    kl, el2n, cosine, grand, weight_cosine, drift or dev_gain, learned (by gradient), code (those of loss, on codes of a shared space)."""
    categories: dict[str, str] = field(default_factory=dict)
    """Task → category, for `category`; the tasks' own where not given."""
    tau: float | None = None
    """Temperature of the softmax over z-scores; chosen by leaving one source out where not given."""
    taus: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0)
    """Temperatures to choose among."""
    tau_sources: int = 4
    """How many sources are each in turn the target where τ is chosen."""
    space: Literal["factors", "product"] = "factors"
    """Where the mean is taken: of the factors, or of the products ΔW = AB of LoRAs."""
    products: tuple[str, ...] = ()
    """Methods whose start is made in the product space too."""
    k: int = 4
    """Dimension of the shared space of `code`."""
    learned: Literal["softmax", "free"] = "softmax"
    """Weights of `learned`: positive with sum 1, or free."""
    learned_steps: int = 40
    """Updates of the weights of `learned`."""
    shots: int = 64
    """Training rows of a target."""
    dev_rows: int | None = None
    """Dev rows of a target, by which sources are judged and steps are chosen; as many as training rows where not given."""
    seeds: int = 2
    """Draws of those rows."""
    steps: int = 40
    """Updates of few-shot training."""
    batch_size: int = 8
    """Rows an update, and rows of a gradient for grand."""
    learning_rate: float = 3e-3
    """Peak learning rate of few-shot training, and of the sources' where they are trained."""
    evaluate_every: int = 20
    """Updates between two looks at the dev rows; the best is kept."""
    probe_steps: int = 20
    """Updates from every source after which drift and dev_gain are read (200 in the paper)."""
    grand_batches: int = 10
    """Batches of which grand sums the gradients' norms."""
    test_rows: int | None = 200
    """Test rows that starts and tuned solutions are scored on."""
    draw: int = 0
    """Of θ0, where solutions are trained."""

    def run(self) -> None:
        """Check, weigh, start, tune, and write the results."""
        setup = self.ready()
        from .ensemble_page import write
        from .ensemble_stages import measure

        write(setup, measure(setup))

    def ready(self) -> "Ensembling":
        """All that the stages work on; whatever is wrong with the settings is said here."""
        self.check()
        use_devices(self.cpu_devices)
        import deltas
        from deltas import Bank
        from subspace.ensembling import at_least_two, can_be_products

        from .ensemble_stages import Ensembling

        bank = None if self.bank is None else Bank(self.bank)
        label = parse_type(self.type).label if bank is None else self.label_of(bank)
        if self.space == "product" or self.products:
            can_be_products(parse_type(self.type) if bank is None else bank.start(label).config)
        names = list(self.names) or (sorted({task for task, _ in bank.pairs([label])}) if bank is not None else [])
        sources = load_tasks(self.tasks, names)
        at_least_two(len(sources) - (not self.targets or any(task.name in self.targets for task in sources)))
        beside = [name for name in self.targets if name not in {task.name for task in sources}]
        others = load_tasks(self.tasks, beside) if beside else []
        self.check_tasks([task.name for task in sources], [task.name for task in (*sources, *others)], bank, label)
        reading = deltas.Reading(max_input=self.max_input, max_target=self.max_target, decode=self.decode, verbalizer=self.verbalizer)
        backbone = deltas.load_backbone(self.backbone, dtype=self.dtype)
        return Ensembling.of(self, backbone, sources, others, reading, label)

    def check(self) -> None:
        """Refuse settings that cannot be."""
        from deltas.errors import InputError, at_least_one

        at_least_one(self, "ensemble's", "source_steps", "tau_sources", "k", "learned_steps", "shots", "dev_rows", "seeds", "steps",
                     "batch_size", "evaluate_every", "probe_steps", "grand_batches", "test_rows")
        for name in (*self.methods, *self.products):
            if name not in METHODS:
                raise InputError(f"expected methods among {', '.join(METHODS)}, got {name!r}; choose of these")
        if unmade := [name for name in self.products if name not in self.methods or name in ("learned", "code")]:
            raise InputError(f"expected products among the methods whose weights are applied as they are, got {unmade[0]!r}; leave it out")
        for tau in (*self.taus, *(() if self.tau is None else (self.tau,))):
            if not tau > 0:
                raise InputError(f"expected a temperature τ above 0, got {tau}; 0.1 is nearly the nearest source alone")
        if self.tau is None and not self.taus:
            raise InputError("expected temperatures to choose among, got none; give --taus, or one --tau")

    def label_of(self, bank: "Bank") -> str:
        """The type to ensemble."""
        from deltas.errors import InputError

        labels = bank.labels()
        if self.label is None and len(labels) != 1:
            raise InputError(f"expected sources of one delta type to average, got a bank of {' and '.join(labels) or 'none'}; name one with "
                             "--label")
        label = self.label or labels[0]
        bank.start(label)
        return label

    def check_tasks(self, sources: list[str], known: list[str], bank: "Bank | None", label: str) -> None:
        """Refuse sources without a solution, a shared space too large for them, and categories of tasks that take no part."""
        from deltas.errors import InputError

        if bank is not None:
            there = {task for task, _ in bank.pairs([label])}
            if missing := [name for name in sources if name not in there]:
                raise InputError(f"expected a solution of {label} for every source, got none of {missing[0]} in {bank.path}; train it first")
        if odd := sorted(set(self.categories) - set(known)):
            raise InputError(f"expected categories of the tasks {', '.join(known)}, got one of {odd[0]!r}; leave it out")
        left = len(sources) - (not self.targets or any(name in sources for name in self.targets))
        if "code" in self.methods and self.k > left - 1:
            raise InputError(f"expected k of at most {left - 1}, one less than the sources of a target, got {self.k}; lower k, or leave out "
                             "code")

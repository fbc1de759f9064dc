"""`deltaspace train`: solutions for tasks × types × seeds, into a bank."""

from dataclasses import dataclass
from pathlib import Path

from .options import OnTasks, parse_rates, parse_type


@dataclass(frozen=True, kw_only=True)
class Train(OnTasks):
    """Train a solution for every task, delta type and seed on the frozen backbone. Run again, it goes on where it stopped."""

    out: Path
    """The bank's folder."""
    types: tuple[str, ...] = ("lora", "adapter", "prefix")
    """Delta types, each with settings if wanted: lora:rank=4 prefix:length=10,label=short."""
    seeds: int = 1
    """Solutions a task and type; seeds change the order of the data alone."""
    steps: int = 300
    """Updates of each solution."""
    batch_size: int = 16
    """Rows an update."""
    learning_rate: float = 3e-3
    """Peak learning rate."""
    prefix_learning_rate: float = 3e-2
    """Peak learning rate of types that are a prefix or a prompt, which need a larger one."""
    learning_rates: tuple[str, ...] = ()
    """Peak learning rates of single types, as label=rate: ia3=0.02 bitfit=0.01."""
    evaluate_every: int = 50
    """Steps between two looks at the dev rows; the best is kept."""
    dev_rows: int = 64
    """Dev rows looked at."""
    test_rows: int | None = None
    """Test rows that each finished solution is scored on; all where not given."""
    in_flight: int | None = None
    """Solutions trained at once; one a device on a processor, sixteen on an accelerator where not given."""
    seed: int = 0
    """Of the types' initial parameters."""

    def run(self) -> None:
        """Train, then write `summary.json` into the bank."""
        backbone, tasks, reading = self.load()
        import deltas
        from deltas.bank import versions
        from deltas.files import write_json

        from .progress import Bars

        types = [parse_type(text) for text in self.types]
        rates = {c.label: self.prefix_learning_rate for c in types if c.name in ("prefix", "prompt")} | parse_rates(
            self.learning_rates, [c.label for c in types])
        training = deltas.Training(steps=self.steps, batch_size=self.batch_size, learning_rate=self.learning_rate, learning_rates=rates,
                                   evaluate_every=self.evaluate_every, dev_rows=self.dev_rows)
        bars = Bars()
        with bars.stage("train", self.steps * len(tasks) * self.seeds * len(types)) as bar:
            done = 0

            def tell(what: str, now: int, total: int) -> None:
                nonlocal done
                bar(now - done, what)
                done = now

            bank = deltas.train(backbone, tasks, types, seeds=self.seeds, out=self.out, training=training, reading=reading,
                                in_flight=self.in_flight, test_rows=self.test_rows, seed=self.seed, on_progress=tell)
        scores = {label: {f"{task}.{seed}": bank.scores(label, task, seed) for task, seed in bank.pairs([label])}
                  for label in bank.labels()}
        trained = {label: {"type": bank.start(label).config.to_json(), "parameters": bank.start(label).layout.size} for label in bank.labels()}
        write_json(self.out / "summary.json", {
            "solutions": scores, "failed": bank.failed(), "backbone": backbone.fingerprint, "trained": trained,
            "answers": deltas.answers(backbone, reading), "seconds": bars.seconds, "versions": versions()})
        print(f"{sum(map(len, scores.values()))} solutions in {self.out}, {len(bank.failed())} failed")

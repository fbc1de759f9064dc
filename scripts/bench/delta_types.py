"""`python -m deltaspace.bench.delta_types`: several delta types trained on a real backbone and real tasks, with scores, time and memory."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import deltas
from deltas.evaluation import Exam, batch_of, evaluate_each
from deltas.files import read_json, write_json
from deltas.parallel import over_solutions
from deltas.tasks import METRICS
from deltas.training import attached_from
from subspace.transfer import zero_shot

from ..options import load_tasks, parse_rates, parse_type, use_devices
from .timing import machine

TYPES = ("lora:rank=8", "adapter:bottleneck=12", "prefix:length=10", "ia3", "bitfit")
RATES = {"lora": 2e-3, "adapter": 2e-3, "prefix": 1e-2, "ia3": 2e-2, "bitfit": 1e-2}


@dataclass(frozen=True, kw_only=True)
class DeltaTypes:
    """Train each type on each task; results.json in `out` has every score beside the backbone's own."""

    backbone: Path
    """A Hugging Face folder."""
    tasks: Path
    """A folder with one folder a task."""
    names: tuple[str, ...]
    """Classification tasks of it."""
    out: Path
    types: tuple[str, ...] = TYPES
    rates: tuple[str, ...] = ()
    """Learning rates other than the usual ones, as label=rate, chosen on dev rows."""
    steps: int = 60
    batch_size: int = 8
    max_input: int = 48
    test_rows: int = 200
    seed: int = 0

    def run(self) -> None:
        """Train, score, measure; what the bank in `out` has already is not trained again."""
        use_devices(None)
        backbone, tasks = deltas.load_backbone(self.backbone), load_tasks(str(self.tasks), self.names)
        reading = deltas.Reading(max_input=self.max_input, max_target=8, decode="rank")
        kinds = [parse_type(text) for text in self.types]
        rates = RATES | parse_rates(self.rates, [kind.label for kind in kinds])
        training = deltas.Training(steps=self.steps, batch_size=self.batch_size, learning_rates=rates, evaluate_every=max(self.steps // 3, 1),
                                   dev_rows=64)
        rows = []
        for kind in kinds:
            for task in tasks:
                bank_path = self.out / "bank"
                fresh = not (bank_path.is_dir() and deltas.Bank(bank_path).labels() and deltas.Bank(bank_path).has(kind.label, task.name, 0))
                start = time.perf_counter()
                bank = deltas.train(backbone, [task], [kind], seeds=1, out=bank_path, training=training, reading=reading, test_rows=0)
                seconds = time.perf_counter() - start
                kept = self.out / f"{kind.label}.{task.name}.json"
                if fresh or not kept.is_file():
                    write_json(kept, {"seconds": round(seconds, 1), **self.row(backbone, bank, kind, task, reading)})
                rows.append(read_json(kept))
                print(rows[-1], flush=True)
        memory = {}
        for kind in kinds:
            if not (kept := self.out / f"memory.{kind.label}.json").is_file():
                write_json(kept, memory_in_flight(backbone, kind, tasks[0], reading, self.batch_size))
            memory[kind.label] = read_json(kept)
        write_json(self.out / "summary.json", {
            "delta_types": rows, "memory": memory, "machine": machine(), "settings": {
                "backbone": self.backbone.name, "kind": backbone.kind, "fingerprint": backbone.fingerprint, "batch_size": self.batch_size,
                "max_input": self.max_input, "verbalizer": deltas.answers(backbone, reading),
                "trained": "the delta alone", "rates": rates}})

    def row(self, backbone: deltas.Backbone, bank: deltas.Bank, kind: Any, task: deltas.Task, reading: deltas.Reading) -> dict[str, Any]:
        """One line of the table: the delta's score, its interval over test rows, and the controls."""
        attached, solution = attached_from(bank, backbone, kind.label), bank.load(kind.label, task.name, 0)
        exam = Exam.of(backbone, task, "test", reading, self.test_rows)
        score, bare = evaluate_each(attached, solution.theta[None], [exam])[0], zero_shot(attached, exam)
        answers, metric = [e.answers for e in exam.examples], METRICS[task.metric]
        rng, drawn = np.random.default_rng(self.seed), []
        for _ in range(1000):
            chosen = rng.integers(0, len(answers), len(answers))
            drawn.append([metric([s.predictions[i] for i in chosen], [answers[i] for i in chosen]) for s in (score, bare)])
        low, high = np.quantile(np.array(drawn)[:, 0], [0.025, 0.975])
        gain = np.quantile(np.array(drawn) @ [1, -1], [0.025, 0.975])
        common = max(task.labels or (), key=[e.answers[0] for e in task.train].count)
        return {"type": kind.label, "task": task.name, "metric": task.metric, "score": score.score, "interval": [float(low), float(high)],
                "zero_shot": bare.score, "gain_interval": list(map(float, gain)),
                "most_common_label": metric([common] * len(answers), answers), "parameters": attached.layout.size,
                "steps": self.steps, "best_step": solution.provenance["step"], "test_rows": len(answers)}


def memory_in_flight(backbone: deltas.Backbone, kind: Any, task: deltas.Task, reading: deltas.Reading, batch: int) -> dict[str, Any]:
    """Bytes of a compiled gradient step with 1 and with 8 solutions in flight, as XLA plans them: arguments and temporaries."""
    attached = deltas.Attached.of(backbone, kind, seed=0, text=[e.input for e in task.train[:2]])
    exam = Exam.of(backbone, task, "dev", reading, batch)
    one = {n: jnp.asarray(v) for n, v in batch_of(exam.encoded, np.arange(batch), reading.max_input,
                                                  exam.encoded.target_ids.shape[1]).items()} | {
        n: jnp.asarray(v) for n, v in exam.encoded.tables.items()}
    found: dict[str, Any] = {"backbone": sum(x.nbytes for x in jax.tree.leaves(attached.frozen)), "delta": 4 * attached.layout.size}
    for count in (1, 8):
        thetas = jnp.tile(jnp.asarray(attached.theta0), (count, 1))
        batches = {n: jnp.broadcast_to(v, (count, *v.shape)) for n, v in one.items()}
        step = over_solutions(jax.value_and_grad(attached.loss), (True, False, True))
        plan = step.lower(thetas, attached.frozen, batches).compile().memory_analysis()
        found[f"in_flight_{count}"] = {"arguments": plan.argument_size_in_bytes, "temporaries": plan.temp_size_in_bytes,
                                       "results": plan.output_size_in_bytes}
    return found


if __name__ == "__main__":
    import tyro

    tyro.cli(DeltaTypes).run()

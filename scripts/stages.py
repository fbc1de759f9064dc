"""The stages of a study, each resumable: train, controls, decompose, optimize, transfer, landscape."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import deltas
import landscape
import subspace
from deltas.evaluation import evaluate_each
from deltas.files import read_json, sha256
from deltas.tasks import Task, chance
from deltas.tuning import Job
from subspace import Subspace
from subspace.optimize import optimize_many
from subspace.transfer import decode_and_score, zero_shot

from .methods import LEARNED, closed, nested
from .progress import Bar
from .run import Run, row


def train(run: Run) -> None:
    """Stage 0: a solution for every task, type and seed. Sources come first, so that θ0 knows nothing of the unseen tasks."""
    study, settings = run.study, run.study.training
    sources = [run.tasks[name] for name in run.groups["source"]]
    total = settings.steps * len(run.tasks) * study.seeds * len(run.labels)
    with run.bars.stage("train", total) as bar:
        for tasks in (sources, run.unseen()):
            done = 0

            def tell(what: str, now: int, _: int) -> None:
                nonlocal done
                bar(now - done, what)
                done = now

            deltas.train(run.backbone, tasks, study.delta_types(), seeds=study.seeds, out=run.out / "bank", training=settings,
                         reading=study.reading, in_flight=study.in_flight, test_rows=study.tasks.test_rows, seed=study.seed,
                         on_progress=tell)
    for task in run.tasks.values():
        for label in run.labels:
            for seed in range(study.seeds):
                scored = run.bank.file(label, task.name, seed).is_file() and run.bank.scores(label, task.name, seed)
                if scored and "test" in scored:  # a source need not be scored on its test rows
                    score = scored["test"]
                    run.rows.append(row("full", task, score, source=label, target=label, seed=seed, control="full"))


def full_dev(run: Run) -> dict[str, dict[str, float]]:
    """The dev score of every unseen task's full delta by type, mean over seeds, and chance on dev: what decides which tasks count."""
    found: dict[str, dict[str, float]] = {}
    for task in run.unseen():
        found[task.name] = {"chance": chance(task, "dev", run.study.training.dev_rows)}
        for label in run.labels:
            scores = [run.bank.scores(label, task.name, seed)["dev"] for seed in range(run.study.seeds)
                      if run.bank.file(label, task.name, seed).is_file()]
            found[task.name][label] = float(np.mean(scores)) if scores else float("nan")
    return found


def controls(run: Run) -> None:
    """zero_shot and chance of every unseen task, and best_source: the source solution, untuned, that is best on the task's dev rows."""
    pairs, wanted = run.pairs(), "best_source" in run.study.decomposition.controls
    tasks, rows = run.unseen(), run.study.tasks.test_rows
    with run.bars.stage("controls", len(tasks) * (1 + (len(pairs) * len(run.labels) if wanted else 0))) as bar:
        for task in tasks:
            def alone(task: Task = task) -> float:
                return zero_shot(next(iter(run.attached.values())), run.exam(task)).score

            run.rows.append(row("control", task, run.kept(f"zero_shot.{task.name}", [task.fingerprint, rows], alone), control="zero_shot"))
            run.rows.append(row("control", task, chance(task, "test", rows), control="chance"))
            bar()
        for label in run.labels if wanted else []:
            for task in tasks:
                def best(task: Task = task, label: str = label) -> dict[str, Any]:
                    return best_source(run, task, label, pairs, lambda n: bar(n, f"best source, {label}"))

                found = run.kept(f"best_source.{label}.{task.name}", [task.fingerprint, rows, pairs], best)
                run.rows.append(row("control", task, found["score"], source=label, target=label, control="best_source"))


def best_source(run: Run, task: Task, label: str, pairs: Sequence[tuple[str, int]], tell: Callable[[int], None]) -> dict[str, Any]:
    """The best single source solution of a type, chosen on dev rows, scored on test rows."""
    attached = run.attached[label]
    thetas = attached.theta0 + np.stack(run.bank.rows(label, pairs))
    dev = evaluate_each(attached, thetas, [run.exam(task, "dev")] * len(pairs), in_flight=run.study.in_flight, on_progress=tell)
    best = max(range(len(pairs)), key=lambda i: (dev[i].score, -dev[i].loss))
    test = evaluate_each(attached, thetas[best : best + 1], [run.exam(task)])[0]
    return {"source": list(pairs[best]), "dev": dev[best].score, "score": test.score}


def decompose(run: Run) -> dict[tuple[str, int], Subspace]:
    """Stage 1: every method at every k, and the controls at the k of the tables, by (method or control, k)."""
    settings, pairs = run.study.decomposition, run.pairs()
    if not pairs:
        raise deltas.InputError(f"expected sources with a solution of every type ({', '.join(run.labels)}), got none in {run.bank.path}; "
                                f"{len(run.bank.failed())} failed: change the training settings")
    sources, spaces = subspace.gather(run.bank, run.labels, pairs), {}
    steps = {"autoencoder": settings.autoencoder.steps, "refined": settings.refined.steps}
    plan = settings.plan()
    with run.bars.stage("decompose", sum(steps.get(method.name, 1) for method, _ in plan)) as bar:
        for method, k in plan:
            folder = run.out / "subspace" / f"{method.file}-k{k}"
            if method.name in LEARNED:
                space = learned(run, method.name, k, sources, folder, bar)
            else:
                some = sources if method.tasks is None else sources.of(nested(pairs, method.tasks, run.study.seed))
                space = closed(method, some, min(k, len(some.pairs) - 1), run.study.seed)
                space.save(folder)
                bar(1, str(method))
            spaces[str(method), k] = space
    return spaces


def learned(run: Run, name: str, k: int, sources: subspace.Sources, folder: Path, bar: Bar) -> Subspace:
    """The autoencoder, or joint_svd refined, at one k: the decompositions that need the backbone and the tasks' text."""
    settings, done = getattr(run.study.decomposition, name), 0

    def tell(step: int, log: Any) -> None:
        nonlocal done
        bar(step - done, f"{name} k={k}")
        done = step

    key = [settings, run.labels, list(sources.pairs), [run.tasks[task].fingerprint for task, _ in sources.pairs]]
    if (folder / "subspace.safetensors").is_file() and run.kept(f"{name}-k{k}", key, lambda: None) is None:
        return Subspace.load(folder)
    state = folder / "state.safetensors"
    if name == "autoencoder":
        space = subspace.autoencoder(sources, k, attached=run.attached, tasks=run.tasks, reading=run.study.reading, settings=settings,
                                     checkpoint=state, on_step=tell)
    else:
        space = subspace.refine(subspace.joint_svd(sources, k), attached=run.attached, tasks=run.tasks, reading=run.study.reading,
                                settings=settings, checkpoint=state, on_step=tell)
    space.save(folder)
    run.kept(f"{name}-k{k}", key, lambda: None)
    state.unlink(missing_ok=True)
    return space


def likeness(run: Run) -> dict[str, Any]:
    """Whether the types see the same similarities between tasks, before any subspace is chosen; needs two types and four tasks."""
    pairs = run.pairs()
    if len(run.labels) < 2 or len({task for task, _ in pairs}) < 4:
        return {}
    return subspace.gram_correlation(run.bank, labels=run.labels, pairs=pairs, seed=run.study.seed)


def tune_and_transfer(run: Run, spaces: dict[tuple[str, int], Subspace]) -> None:
    """Stages 2 and 3 in every subspace: z tuned through each type, then decoded by all of them; mean_only is scored as it is."""
    settings, main = run.study.optimization, run.study.decomposition.tables
    called = {str(method): name for method, name in run.study.decomposition.fitted_controls().items()}
    jobs = {name: seeds(run, *name) for name in spaces}
    steps = sum(settings.training.steps * len(j) * len(run.labels) for name, j in jobs.items() if not name[0].startswith("mean_only"))
    with run.bars.stage("optimize", steps) as bar:
        for (method, k), space in spaces.items():
            control = called.get(method, "")
            ours = run.study.decomposition.methods[0] if control else method
            for source in run.labels:
                found = []
                for seed in sorted({job.seed for job in jobs[method, k]}):
                    these = [job for job in jobs[method, k] if job.seed == seed]

                    def make(space: Subspace = space, source: str = source, these: list[Job] = these, name: str = method) -> Any:
                        return one_space(run, space, source, these, name, lambda n: bar(n, f"{name} k={space.k} {source}"))

                    key = [digest(space), settings.training, settings.std, run.study.reading, [(j.task.fingerprint, j.seed) for j in these],
                           run.study.tasks.test_rows]
                    found += run.kept(f"{method.replace('/', '-of-')}-k{k}.{source}.{seed}", key, make)
                for point in found:
                    for target, score in point["scores"].items():
                        stage = "optimization" if target == source else "transfer"
                        run.rows.append(row(stage, run.tasks[point["task"]], score, source=source, target=target, method=ours, k=k,
                                            seed=point["seed"], control=control))
    assert main in {k for _, k in spaces}


def seeds(run: Run, method: str, k: int) -> list[Job]:
    """The jobs in one subspace: every unseen task, with all seeds for the methods at the k of the tables, fewer elsewhere."""
    settings = run.study.optimization
    main = method in run.study.decomposition.methods and k == run.study.decomposition.tables
    count = 1 if method.startswith("mean_only") else settings.method_seeds.get(method, settings.seeds) if main else settings.curve_seeds
    return [Job(task, seed) for task in run.unseen() for seed in range(count)]


def digest(space: Subspace) -> str:
    """A fingerprint of what a subspace decodes to."""
    return sha256(space.codes.tobytes(), *(array.tobytes() for part in space.parts.values() for array in (part.offset, part.basis)))


def one_space(run: Run, space: Subspace, source: str, jobs: list[Job], method: str, tell: Callable[[int], None]) -> list[dict[str, Any]]:
    """Points found through one type, with their scores by every type."""
    settings = run.study.optimization
    if method.startswith("mean_only"):
        points = [{"task": j.task.name, "seed": j.seed, "z": [0.0] * space.k, "scores": {}} for j in jobs]
        targets = [source]  # nothing was tuned, so every type's own score says all
    else:
        found = optimize_many(space, run.attached[source], jobs, training=settings.training, reading=run.study.reading, std=settings.std,
                              in_flight=run.study.in_flight, test_rows=run.study.tasks.test_rows, on_progress=tell)
        points = [{"task": f.task, "seed": f.seed, "z": f.z.tolist(), "dev": f.dev, "step": f.step, "failed": f.failed,
                   "scores": {source: f.score}} for f in found]
        targets = [label for label in run.labels if label != source]
    exams = {task.name: run.exam(task) for task in run.unseen()}
    for target in targets:
        codes = np.asarray([p["z"] for p in points], np.float32)
        for point, score in zip(points, decode_and_score(space, run.attached[target], codes, [exams[p["task"]] for p in points],
                                                         run.study.in_flight), strict=True):
            point["scores"][target] = score.score
    return points


def planes(run: Run, space: Subspace) -> dict[str, Any]:
    """The landscapes: a plane of z for each named task, with the points found for it marked; its region's area."""
    settings = run.study.landscape
    if settings is None:
        return {}
    names = settings.tasks or tuple(members[0] for group, members in run.groups.items() if group.startswith("unseen") and members)
    regions: dict[str, Any] = {}
    with run.bars.stage("landscape", settings.resolution**2 * len(run.labels) * len(names)) as bar:
        for name in names:
            if name not in run.tasks:
                raise deltas.InputError(f"expected landscape.tasks among the study's tasks, got {name!r}; name one of {', '.join(run.tasks)}")
            points: dict[str, Any] = {f"{label}'s point": z for label, z in found_points(run, name).items()}
            spanned: list[Any] = [tuple(s) if isinstance(s, list) else s for s in settings.spanned_by]
            if spanned == ["found"]:
                spanned, points = through_found(space, points)
            surface = landscape.plane(
                space, run.backbone, run.tasks[name], spanned_by=spanned, extent=settings.extent, resolution=settings.resolution,
                rows=settings.rows, reading=run.study.reading, found=points, cache=run.out / "stages" / "planes",
                on_progress=bar.listener(name))
            surface.save(run.out / "landscape" / f"{name}.safetensors")
            regions[name] = landscape.region(surface, tolerance=settings.tolerance).summary()
    return regions


def through_found(space: Subspace, points: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """What spans the plane through up to three points that were found for a task (through two: and z = 0; else the leading directions), and
    which of the points are still to be marked."""
    if len(points) < 2:
        return [0, 1], points
    corners = list({**points, "z = 0": np.zeros(space.k)}.items())[:3]
    return corners, {name: z for name, z in points.items() if name not in dict(corners)}


def found_points(run: Run, task: str) -> dict[str, np.ndarray]:
    """The points found for a task in the study's own subspace, by the type they were tuned through: seed 0."""
    settings = run.study.decomposition
    found = {}
    for label in run.labels:
        path = run.out / "stages" / f"{settings.methods[0]}-k{settings.tables}.{label}.0.json"
        for point in read_json(path)["value"] if path.is_file() else []:
            if point["task"] == task and point["seed"] == 0:
                found[label] = np.asarray(point["z"])
    return found

"""The engine: what a job ends with follows from its task and seed alone."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import toy

import deltas
from deltas import Adapter, Bank, LoRA, Reading, Training, train, tuning
from deltas.evaluation import Score
from deltas.parallel import flight
from deltas.tuning import Job, tune

READING = Reading(max_input=24, max_target=4, buckets=(8,))
TRAINING = Training(steps=12, batch_size=4, learning_rate=0.02, warmup=2, evaluate_every=3, segment=3, dev_rows=8)
TESTS = Path(__file__).parents[1]


@pytest.fixture
def looks(monkeypatch):
    """A cheap look at the dev rows in place of generation, and a record of the θ that were looked at."""
    seen = []

    def look(attached, thetas, exams, *, in_flight=None):
        seen.append(np.array(thetas))
        moved = [float(np.abs(theta - attached.theta0).mean(dtype=np.float64)) for theta in np.asarray(thetas)]
        return [Score(-abs(far - 0.02), 1.0, ()) for far in moved]  # best somewhere on the way

    monkeypatch.setattr(tuning, "evaluate_each", look)
    return seen


@pytest.fixture
def compiled(monkeypatch, attached):
    """`train` on the deltas that all tests share, so that each program is compiled once; θ0 still comes from the bank."""
    original = deltas.training.begin

    def begin(bank, backbone, config, **options):
        known = attached[config.label]
        assert original(bank, backbone, config, **options).theta0_fingerprint == known.theta0_fingerprint
        return known

    monkeypatch.setattr(deltas.training, "begin", begin)


def outcomes(attached, jobs, *, starts=None, training=TRAINING, **options):
    starts = np.zeros((len(jobs), attached.layout.size), np.float32) if starts is None else starts
    return [o for flight in tune(attached, jobs, starts, training, READING, **options) for o in flight]


@pytest.fixture(scope="module")
def one(attached):
    return attached["lora"]


@pytest.fixture(scope="module")
def jobs(small_tasks):
    return [Job(task, 0) for task in small_tasks]


def same(ours, theirs, tolerance=1e-5):
    assert (ours.job, ours.step, ours.failed) == (theirs.job, theirs.step, theirs.failed)
    np.testing.assert_allclose(ours.vector, theirs.vector, atol=tolerance)
    for a, b in zip(ours.history, theirs.history, strict=True):
        assert a == pytest.approx(b, abs=1e-4)


# ------------------------------------------------------------------ independence
def test_neighbours_in_flight_do_not_matter(one, jobs, looks):
    """One at a time, all at once, and in another order; tasks of different lengths and sizes."""
    alone, together = outcomes(one, jobs, in_flight=1), outcomes(one, jobs[::-1], in_flight=3)[::-1]
    for ours, theirs in zip(alone, together, strict=True):
        same(ours, theirs)
        assert np.abs(ours.vector).max() > 0.01
        assert [h["step"] for h in ours.history] == [3, 6, 9, 12]


@pytest.mark.slow
def test_neighbours_in_flight_do_not_matter_under_dropout(one, jobs, looks):
    training = dataclasses.replace(TRAINING, dropout=0.2)
    alone, together = (outcomes(one, jobs, in_flight=size, training=training) for size in (1, 3))
    for ours, theirs, clean in zip(alone, together, outcomes(one, jobs, in_flight=3), strict=True):
        same(ours, theirs)
        assert np.abs(ours.vector - clean.vector).max() > 1e-3


def test_the_order_of_the_data_follows_from_task_and_seed(attached, one, small_tasks, looks, monkeypatch):
    """Not from the delta type, the run or the neighbours; and the seed changes the solution."""
    plans, original = {}, tuning.schedule

    def schedule(encoded, reading, **options):
        plan = original(encoded, reading, **options)
        plans.setdefault(options["seed"], []).append(np.concatenate([s.rows for s in plan]))
        return plan

    monkeypatch.setattr(tuning, "schedule", schedule)
    jobs = [Job(small_tasks[0], seed) for seed in (0, 1, 0)]
    found = outcomes(one, jobs, in_flight=1)
    np.testing.assert_array_equal(found[0].vector, found[2].vector)
    assert np.abs(found[0].vector - found[1].vector).max() > 1e-3
    tuning._Flight(attached["adapter"], jobs[:1], np.zeros((1, attached["adapter"].layout.size), np.float32), TRAINING, READING, tuning.plus,
                   None, flight(1), None)
    assert len(plans) == 2
    for seen in plans.values():
        assert all(np.array_equal(seen[0], other) for other in seen)
    assert not np.array_equal(*(seen[0] for seen in plans.values()))
    assert len({Job(task, seed).key for task in small_tasks for seed in range(3)}) == 9
    assert Job(small_tasks[0], 0).key == 239548166  # the same in every process
    assert Job(dataclasses.replace(small_tasks[0], name="a"), 10).key != Job(dataclasses.replace(small_tasks[0], name="a1"), 0).key


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="memory maps are counted on Linux")
def test_programs_are_forgotten_before_the_system_runs_out_of_memory_maps():
    import jax.numpy as jnp

    from deltas.parallel import forget_programs, over_solutions

    twice = over_solutions(lambda x: 2 * x, (True,))
    size = jnp.ones((8, 3))
    np.testing.assert_array_equal(twice(size), 2 * size)
    assert not forget_programs(share=1.0)
    assert twice._cache_size() == 1
    assert forget_programs(share=0.0)
    assert twice._cache_size() == 0
    np.testing.assert_array_equal(twice(size), 2 * size)


def test_devices_share_the_solutions_and_change_nothing():
    """A function over the axis of solutions on four virtual devices."""
    out = in_process("""
        import jax, jax.numpy as jnp, numpy as np
        from deltas.parallel import flight, over_solutions
        assert jax.device_count() == 4 and [flight(n) for n in (None, 1, 4, 5)] == [4, 4, 4, 8]
        x, w = np.arange(24.0, dtype=np.float32).reshape(8, 3), np.ones((3, 2), np.float32)
        fn = lambda x, w: {"y": jnp.tanh(x @ w), "n": x.sum()}
        for rows in (8, 4):
            got = over_solutions(fn, (True, False))(x[:rows], w)
            assert len(got["y"].sharding.device_set) == 4
            np.testing.assert_allclose(got["y"], np.tanh(x[:rows] @ w), rtol=1e-6)
            np.testing.assert_allclose(got["n"], x[:rows].sum(1))
        print("ok")
    """, devices=4)
    assert out == "ok"


# ------------------------------------------------------------------ what is kept
@pytest.fixture
def scripted(monkeypatch):
    """Looks whose (score, loss) are given, whatever was learned."""

    def script(*looks):
        rest, seen = iter(looks), []

        def look(attached, thetas, exams, *, in_flight=None):
            seen.append(np.array(thetas[0]))
            return [Score(*next(rest), ())] * len(thetas)

        monkeypatch.setattr(tuning, "evaluate_each", look)
        return seen

    return script


@pytest.mark.parametrize(("scores", "best"), [
    ([(-0.9, 1), (-0.2, 1), (-0.5, 1), (-0.3, 1)], 2),  # negative scores select too
    ([(0.0, 3), (0.0, 2), (0.0, 1), (0.0, 2)], 3),  # equal scores: the lower loss
    ([(0.5, 1), (0.5, 1), (0.5, 1), (0.4, 0)], 1),  # equal in all: the first
    ([(0.1, 1), (0.9, np.nan), (0.9, np.inf), (0.2, 1)], 4),  # a loss that is not finite is never kept
    ([(np.nan, 1), (-1.0, 1), (np.nan, 1), (np.nan, 1)], 2),
])
def test_the_best_dev_step_is_kept(one, jobs, scripted, scores, best):
    seen = scripted(*scores)
    outcome = outcomes(one, jobs[:1], in_flight=1)[0]
    assert (outcome.step, outcome.score, outcome.loss) == (3 * best, *scores[best - 1])
    np.testing.assert_allclose(one.theta0 + outcome.vector, seen[best - 1], atol=1e-6)
    np.testing.assert_array_equal([(h["dev_score"], h["dev_loss"]) for h in outcome.history], scores)
    assert not np.allclose(seen[0], seen[1])


def test_a_vector_that_becomes_nan_fails_alone(one, jobs, looks):
    """Its neighbours end bit for bit as without it."""
    starts = np.zeros((3, one.layout.size), np.float32)
    clean = outcomes(one, jobs, in_flight=3)
    starts[1, 5] = np.nan
    found = outcomes(one, jobs, starts=starts, in_flight=3)
    assert [o.failed for o in found] == [None, 0, None]
    for m in (0, 2):
        np.testing.assert_array_equal(found[m].vector, clean[m].vector)


def test_an_exploding_task_is_marked_and_the_others_go_on(backbone, small_tasks, tmp_path, looks, compiled):
    training = dataclasses.replace(TRAINING, learning_rates={"lora": 3e38})
    options = {"out": tmp_path, "training": training, "reading": READING, "in_flight": 1, "test_rows": 0}
    bank = train(backbone, small_tasks[:1], [LoRA(rank=2), Adapter(bottleneck=3)], **options)
    (failure,) = bank.failed()
    assert (failure["label"], failure["task"], failure["seed"]) == ("lora", small_tasks[0].name, 0)
    assert 0 < failure["step"] < 12
    assert bank.pairs(["lora"]) == []
    assert bank.pairs(["adapter"]) == [(small_tasks[0].name, 0)]
    steps = []
    train(backbone, small_tasks[:1], [LoRA(rank=2), Adapter(bottleneck=3)], on_progress=lambda *told: steps.append(told), **options)
    assert steps == [("lora", 12, 24), ("adapter", 24, 24)]  # neither is trained again


# ------------------------------------------------------------------ a whole run
def test_a_constant_answer_is_learned(backbone, small_tasks, tmp_path, compiled):
    """The real looks, the real test: dev and test scores reach 1, and the bank says how."""
    reading = dataclasses.replace(READING, buckets=())  # one shape to compile
    told, training = [], dataclasses.replace(TRAINING, steps=60, learning_rate=0.05, evaluate_every=30)
    bank = train(backbone, small_tasks[2:], [LoRA(rank=2)], out=tmp_path, training=training, reading=reading, in_flight=1, test_rows=8,
                 on_progress=lambda *step: told.append(step))
    solution = bank.load("lora", "always_maybe", 0)
    assert solution.scores["metric"] == "exact_match"
    assert solution.scores["dev"] == solution.scores["test"] == 1.0
    assert solution.scores["test_loss"] < solution.scores["dev_loss"] + 0.5 < solution.provenance["history"][0]["train_loss"]
    assert solution.provenance["task"] == small_tasks[2].fingerprint
    assert set(solution.provenance) == {"step", "answers", "history", "task", "versions"}  # no time, no machine: runs can be compared
    assert solution.provenance["answers"] == "generated greedily"
    assert told[-1] == ("lora", 60, 60)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["solutions", "theta0"]


def files(bank):
    return {str(p.relative_to(bank)): p.read_bytes() for name in ("theta0", "solutions") for p in sorted((bank / name).rglob("*.safetensors"))}


@pytest.mark.parametrize("stop", [1, 8, 17])
def test_an_interrupted_run_goes_on_to_the_same_bytes(backbone, small_tasks, tmp_path, looks, compiled, stop):
    """Stopped before the first checkpoint, after some, and in the second flight."""
    options = {"training": TRAINING, "reading": READING, "in_flight": 1, "test_rows": 0}
    train(backbone, small_tasks[:2], [LoRA(rank=2)], out=tmp_path / "whole", **options)

    def interrupt(label, done, total):
        if done >= stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(backbone, small_tasks[:2], [LoRA(rank=2)], out=tmp_path / "cut", on_progress=interrupt, **options)
    assert files(tmp_path / "cut") != files(tmp_path / "whole")
    told = []
    train(backbone, small_tasks[:2], [LoRA(rank=2)], out=tmp_path / "cut", on_progress=lambda *step: told.append(step), **options)
    assert told[0][1] == {1: 0, 8: 6, 17: 12}[stop]  # what was done is not done again
    assert told[-1] == ("lora", 24, 24)
    for task in small_tasks[:2]:  # before the bytes: what differs, if they do
        ours, theirs = (Bank(tmp_path / name).load("lora", task.name, 0) for name in ("cut", "whole"))
        assert (ours.scores, ours.provenance) == (theirs.scores, theirs.provenance)
        np.testing.assert_array_equal(ours.vector, theirs.vector)
    assert files(tmp_path / "cut") == files(tmp_path / "whole")
    assert len(files(tmp_path / "whole")) == 3
    assert not (tmp_path / "cut" / "partial").exists()


def test_a_damaged_checkpoint_starts_anew(one, jobs, looks, tmp_path):
    clean = outcomes(one, jobs[:1], in_flight=1, checkpoints=tmp_path)[0]
    (state,) = tmp_path.iterdir()
    again = outcomes(one, jobs[:1], in_flight=1, checkpoints=tmp_path)[0]  # from the last look: nothing is left to do
    for content in (state.read_bytes()[:100], b""):
        state.write_bytes(content)
        anew = outcomes(one, jobs[:1], in_flight=1, checkpoints=tmp_path)[0]
        for found in (again, anew):
            np.testing.assert_array_equal(found.vector, clean.vector)
            assert found.history == clean.history


# ------------------------------------------------------------------ other processes
def in_process(code, *, devices=1, wait=True, cache=None):
    """Run code in a Python of its own, on so many virtual devices."""
    import textwrap

    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(deltas.__file__).parents[1]), str(TESTS)]), "JAX_PLATFORMS": "cpu",
                        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    if cache is not None:
        env |= {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if not wait:
        return process
    out, err = process.communicate(timeout=500)
    assert process.returncode == 0, err
    return out.strip()


def run_code(folder, out, in_flight):
    return f"""
        import toy, deltas
        backbone = deltas.load_backbone({str(folder)!r})
        training = deltas.Training(steps=30, batch_size=4, learning_rate=0.02, warmup=2, evaluate_every=3, segment=3, dev_rows=8)
        deltas.train(backbone, [toy.classify(), toy.copy(), toy.constant()], [deltas.LoRA(rank=2)], seeds=2, out={str(out)!r},
                     training=training, reading=deltas.Reading(max_input=24, max_target=4, buckets=()), in_flight={in_flight}, test_rows=4)
    """


@pytest.mark.slow
def test_a_killed_process_goes_on_to_the_same_bytes(folder, tmp_path):
    cache, (whole, cut) = tmp_path / "cache", (tmp_path / name for name in ("whole", "cut"))
    in_process(run_code(folder, whole, 2), cache=cache)
    for checkpoints in (1, 4):  # killed twice, in different flights
        process = in_process(run_code(folder, cut, 2), wait=False, cache=cache)
        partial, seen = cut / "partial", set()
        while process.poll() is None and len(seen) < checkpoints:
            seen |= {(p.name, p.stat().st_mtime_ns) for p in partial.glob("[!.]*")} if partial.is_dir() else set()
            time.sleep(0.002)
        assert process.poll() is None, process.communicate()[1]
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert len(files(cut)) < len(files(whole)) == 7
    in_process(run_code(folder, cut, 2), cache=cache)
    assert files(cut) == files(whole)


@pytest.mark.slow
def test_a_bank_does_not_depend_on_the_number_of_devices(folder, tmp_path):
    banks = []
    for devices in (1, 8):
        in_process(run_code(folder, tmp_path / str(devices), 8), devices=devices)
        banks.append(Bank(tmp_path / str(devices)))
    assert banks[0].pairs() == banks[1].pairs()
    assert len(banks[0].pairs()) == 6
    for pair in banks[0].pairs():
        ours, theirs = (bank.load("lora", *pair) for bank in banks)
        np.testing.assert_allclose(ours.vector, theirs.vector, atol=1e-5)
        assert ours.scores == pytest.approx(theirs.scores, abs=1e-4)


# ------------------------------------------------------------------ refusals
@pytest.mark.parametrize(("changes", "words"), [
    ({"steps": 0}, ["steps", "0"]),
    ({"batch_size": -1}, ["batch_size", "-1"]),
    ({"evaluate_every": 0}, ["evaluate_every"]),
    ({"optimizer": "sgd"}, ["optimizer", "'sgd'"]),
    ({"schedule": "linear"}, ["schedule", "'linear'"]),
    ({"dropout": 1.0}, ["dropout", "1.0"]),
])
def test_bad_training(changes, words, refused):
    with refused(*words):
        Training(**changes)


def test_bad_runs_are_refused_before_any_work(backbone, small_tasks, tmp_path, refused):
    task = small_tasks[0]
    for tasks, types, words in (([], [LoRA()], ["0 and 1"]), ([task], [], ["1 and 0"]), ([task, task], [LoRA()], [task.name]),
                                ([task], [LoRA(), LoRA(rank=3)], ["'lora'"])):
        with refused(*words):
            train(backbone, tasks, types, out=tmp_path / "new")
    assert not (tmp_path / "new").exists()
    bank = Bank(tmp_path / "bank", create=True)
    deltas.training.begin(bank, backbone, LoRA(rank=2))
    with refused("rank=2", "rank=3"):
        train(backbone, [task], [LoRA(rank=3)], out=bank.path)
    stranger = dataclasses.replace(backbone, fingerprint="0" * 16)
    with refused("0" * 16, backbone.fingerprint):
        train(stranger, [task], [LoRA(rank=2)], out=bank.path)


def test_optimizers_and_schedules():
    """The rate rises in the warm-up and, under cosine, falls to nothing."""
    import jax.numpy as jnp

    for optimizer in ("adamw", "adafactor"):
        sizes = {}
        for schedule in ("cosine", "constant"):
            training = Training(steps=20, warmup=4, optimizer=optimizer, schedule=schedule, clip=0.0, learning_rate=0.1)
            transform, v = training.transform("any"), jnp.ones(4)
            state, moved = transform.init(v), []
            for _ in range(20):
                update, state = transform.update(jnp.ones(4), state, v)
                moved.append(float(jnp.abs(update).max()))
            sizes[schedule] = moved
            assert moved[0] < moved[2] < moved[4]
        assert sizes["cosine"][-1] < 0.02 * max(sizes["cosine"])
        assert sizes["constant"][-1] == pytest.approx(max(sizes["constant"]), rel=0.05)


def test_the_toy_tasks_are_what_the_tests_assume():
    for task in (toy.classify(), toy.copy(), toy.constant()):
        assert len(task.dev) >= 8
    lengths = [max(len(e.input.split()) for e in task.train) for task in (toy.classify(), toy.copy(), toy.constant())]
    assert lengths[0] < 8 < lengths[1] < lengths[2] < 24


def test_labels_that_are_not_there_are_refused_before_any_work(backbone, small_tasks, refused, tmp_path):
    """Not when a task's turn comes: the first task here has labels."""
    with refused("rank", small_tasks[1].name):
        train(backbone, small_tasks[:2], [LoRA(rank=2)], out=tmp_path, training=TRAINING, in_flight=1,
              reading=dataclasses.replace(READING, decode="rank"))
    assert not list((tmp_path / "solutions").rglob("*.safetensors"))

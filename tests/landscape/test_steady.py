"""What all points of a plane agree on is computed once a batch: the same numbers as one by one, and how often the encoder runs."""

import jax
import numpy as np
import pytest
import toy

import deltas
import landscape
from deltas.evaluation import Exam, evaluate_each
from deltas.tasks import Reading
from landscape import steady
from landscape.around import Around
from landscape.staged import Staged

RANKED = Reading(max_input=12, max_target=4, decode="rank")


# ---------------------------------------------------------------- the cut of a function
def test_a_staged_function_is_the_function_and_its_early_half_does_what_it_can():
    rng = np.random.default_rng(0)
    w, x, m = rng.normal(size=(3, 8, 8)).astype(np.float32), rng.normal(size=(4, 8)).astype(np.float32), rng.normal(size=(5, 8, 8))

    def f(early, late):
        w, x = early
        below = jax.nn.gelu(x @ w[0]) @ w[1]

        def turn(state):
            n, y = state
            return n + 1, jax.nn.softmax(y @ late["m"] + below)

        looped = jax.lax.while_loop(lambda state: state[0] < 3, turn, (0, below))[1]
        return {"loop": looped, "below": below.sum(-1)}, jax.lax.map(lambda row: late["m"] @ row, x @ w[2])

    late = {"m": (0.3 * m).astype(np.float32)}
    one = {"m": late["m"][0]}
    staged = Staged(f, (w, x), one)
    kept = jax.jit(staged.before)((w, x))
    together = jax.jit(jax.vmap(staged.after, in_axes=(None, None, 0)))(kept, (w, x), late)
    for n in range(5):
        jax.tree.map(lambda mine, theirs, n=n: np.testing.assert_allclose(mine[n], theirs, rtol=1e-5, atol=1e-6), together,
                     f((w, x), {"m": late["m"][n]}))
    assert staged.saved == pytest.approx(3 * 4 * 64 / (3 * 4 * 64 + 4 * 64 + 4 * 64))  # three products early; late a turn of the loop and a map
    assert Staged(lambda early, late: early @ late, w[0], w[1]).saved == 0
    assert Staged(lambda early, late: early @ early, w[0], w[1]).saved == 1


# ---------------------------------------------------------------- of a backbone
@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """A T5 with two blocks in its encoder."""
    backbone = deltas.load_backbone(toy.write_folder(tmp_path_factory.mktemp("deep"), num_layers=2, num_decoder_layers=1))
    return deltas.Attached.of(backbone, deltas.LoRA(rank=1, sites=("attn.q", "cross.v")))


def plane_of(attached, *beginnings, count=5, size=0.7):
    """Points that differ in the parameters with these beginnings, and the directions that they differ along."""
    rng, kept = np.random.default_rng(1), [name.startswith(beginnings) for name in attached.layout.names]
    lengths = [int(np.prod(shape)) for shape in attached.layout.shapes]
    start = attached.theta0 + 0.3 * rng.normal(size=attached.layout.size)
    directions = size * rng.normal(size=(2, attached.layout.size)) * np.repeat(kept, lengths)
    return (start + rng.normal(size=(count, 2)) @ directions).astype(np.float32), start.astype(np.float32), directions.astype(np.float32)


def same(mine, theirs):
    for a, b in zip(mine, theirs, strict=True):
        assert (a.predictions, a.score) == (b.predictions, b.score)
        assert a.loss == pytest.approx(b.loss, rel=1e-6, abs=1e-6)
    assert len({a.loss for a in mine}) == len(mine)  # the points do differ


def test_the_parameters_that_move_are_found(deep):
    names = deep.layout.names
    for beginnings in (("decoder",), ("encoder.1", "decoder"), ("encoder", "decoder")):
        thetas, *_ = plane_of(deep, *beginnings)
        assert steady.moving(deep.layout, thetas) == [name for name in names if name.startswith(beginnings)]
    assert steady.moving(deep.layout, thetas[[0, 0]]) == []


def test_a_plane_of_the_decoder_has_the_numbers_of_its_points_one_by_one(deep, monkeypatch):
    """Loss and score by generation; the encoder is half of the work at least, and runs once."""
    made, evaluator = [], steady.evaluator
    monkeypatch.setattr(steady, "evaluator", lambda *given, **options: made.append(evaluator(*given, **options)) or made[-1])
    _, start, directions = plane_of(deep, "decoder")
    around, task, reading = Around(attached=deep, centre=start, directions=directions), toy.copy(rows=32), Reading(max_input=12, max_target=3)
    surface = landscape.plane(around, deep.backbone, task, extent=1.0, resolution=2, reading=reading)
    c = np.stack(np.meshgrid(surface.x, surface.y), -1).reshape(-1, 2)
    each = evaluate_each(deep, around.decode(around.label, c), [Exam.of(deep.backbone, task, "test", reading)] * 4)
    np.testing.assert_allclose(surface.loss.reshape(-1), [score.loss for score in each], rtol=1e-6)
    np.testing.assert_array_equal(surface.score.reshape(-1), [score.score for score in each])
    assert np.ptp(surface.loss) > 1e-3
    assert isinstance(made[0], steady.Steady)
    assert made[0].saved > 0.4


def test_a_plane_of_the_upper_encoder_has_the_numbers_of_its_points_one_by_one(deep):
    """Loss and score by ranking, two points in flight; the lower block runs once a batch, and not again for more points."""
    exam = Exam.of(deep.backbone, toy.classify(rows=48), "test", RANKED)
    thetas, *_ = plane_of(deep, "encoder.1", "decoder", count=3)
    run = steady.evaluator(deep, exam, thetas, in_flight=2, rows_at_once=8)
    assert isinstance(run, steady.Steady)
    assert run.saved > 0.2
    mine = run(thetas)
    same(mine, evaluate_each(deep, thetas, [exam] * 3, in_flight=2, rows_at_once=8))
    assert set(run._kept) == {0, 1}  # both batches were read, and are not read again:
    for number in range(2):
        staged, _, after = run._half(number)
        run._halves[run._plan[number][0]] = staged, lambda early: pytest.fail("read again"), after
    same(run(thetas[:2]), mine[:2])


def test_a_plane_on_which_everything_moves_is_evaluated_point_by_point(deep, monkeypatch):
    asked = []
    monkeypatch.setattr(steady, "evaluate_each", lambda attached, thetas, exams, **options: asked.append((len(thetas), len(exams), options)))
    exam = Exam.of(deep.backbone, toy.classify(), "test", RANKED, 8)
    thetas, *_ = plane_of(deep, "encoder", "decoder")
    for corners in (thetas, thetas[[0, 0]]):  # points that are all the same are no plane
        run = steady.evaluator(deep, exam, corners, in_flight=3)
        assert not isinstance(run, steady.Steady)
        run(thetas)
        assert asked.pop() == (5, 5, {"in_flight": 3, "rows_at_once": 64})


def test_what_does_not_fit_in_memory_is_read_again(deep, monkeypatch):
    run = steady.Steady(deep, Exam.of(deep.backbone, toy.classify(rows=96), "test", RANKED), deep.theta0, ["decoder.0.attn.q.a"],
                        rows_at_once=8)
    read = []
    run._half = lambda number: (None, lambda early: read.append(number) or [np.ones(10)], None)  # type: ignore[method-assign]
    monkeypatch.setattr(steady, "MEMORY", 200)
    for number in (0, 1, 2, 0, 1, 2):
        run._read(number)
    assert read == [0, 1, 2, 2]  # 80 bytes each: two batches are kept


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "upper"), [("bert", "encoder.1"), ("gpt2", "decoder.1"), ("bart", "decoder")])
def test_lower_blocks_of_every_kind_of_backbone_are_run_once(tmp_path, kind, upper):
    backbone = deltas.load_backbone(toy.write_folder(tmp_path / kind, kind))
    attached = deltas.Attached.of(backbone, deltas.LoRA(rank=1, sites=("attn.q",)))
    exam = Exam.of(backbone, toy.classify(), "test", RANKED)
    thetas, *_ = plane_of(attached, upper)
    run = steady.evaluator(attached, exam, thetas)
    assert isinstance(run, steady.Steady)
    same(run(thetas), evaluate_each(attached, thetas, [exam] * 5))

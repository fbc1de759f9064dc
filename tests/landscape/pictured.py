"""Small planes, paths and curvature to draw, and what the figures say of them."""

from types import SimpleNamespace

import numpy as np
from matplotlib.text import Text

from landscape import Mark, Surface, Trail
from landscape.curvature import Eigen, Traced, spectral_density
from landscape.sections import Section

TRAILS = (Trail(name="tuned", x=np.array([-1.5, 0.0, 0.5]), y=np.array([1.0, 0.5, 0.0]), share=0.83),
          Trail(name="b", x=np.array([1.5, 0.5]), y=np.array([-1.0, 0.0]), share=0.41))  # fmt: skip


def surface(labels=("a", "b"), task="one", metric="accuracy", hole=True, shift=0.0, **others):
    axis = np.linspace(-2, 2, 9)
    x, y = np.meshgrid(axis, axis)
    loss = np.stack([0.2 + (x - 0.3 * t - shift) ** 2 + y**2 for t in range(len(labels))])
    score = np.exp(-loss)
    if hole:
        loss[-1, 0, 0] = score[-1, 0, 0] = np.nan
    marks = tuple(Mark(name=kind, x=0.4 * n, y=0.1, kind=kind) for n, kind in enumerate(("source", "found", "corner", "origin", "centre")))
    return Surface(origin=np.zeros(4), directions=np.eye(4)[:2], x=axis, y=axis, loss=loss, score=score, labels=tuple(labels), marks=marks,
                   task=task, metric=metric, split="test", axes=("z0", "z1"), trails=TRAILS, **others)  # fmt: skip


def section(name="straight", values=None, **others):
    t = np.linspace(0, 1, 5)
    rng = np.random.default_rng(0)
    bump = np.array([0, 1, 2, 1, 0.0]) + rng.normal(0, 0.1, (6, 5))
    return Section(t=t, values={"a": bump, "b": 0.5 * bump} if values is None else values, name=name, **others)


def walk(kind="straight", task="one"):
    rng = np.random.default_rng(1)
    loss = rng.random((2, 3, 5))
    return SimpleNamespace(
        t=np.linspace(0, 1, 5), labels=("a", "b"), loss=loss, score=1 - loss, ends=("first", "second"), where="theta", task=task,
        metric="f1", path=SimpleNamespace(kind=kind), values=lambda label, what: np.full(5, 0.25) if what == "loss" else np.full(5, 0.75),
    )  # fmt: skip


def words(figure):
    return [text.get_text() for text in figure.findobj(Text) if text.get_text() and text.get_visible()]


def panel_titles(figure):
    return [ax.get_title("left") for ax in figure.axes if ax.get_title("left")]


def density():
    return spectral_density(lambda v: np.array([4.0, 1.0, 0.5, -1.0]) * np.asarray(v), 4, probes=2)


EIGEN = {"a": Eigen(values=np.array([4.0, -1.0]), vectors=np.eye(2), errors=np.array([0.5, 0.25]))}
TRACES = {"a": Traced(value=3.0, low=2.0, high=4.5, probes=8)}

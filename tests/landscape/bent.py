"""Curvature and sharpness of small functions whose numbers are known, to draw; and where the words of a figure stand."""

import numpy as np
from matplotlib.text import Text

from landscape.bending import Bending, Matrix
from landscape.curvature import Traced, eigenvalues_of
from landscape.sharpness import average_case, worst_case


def bending(label="lora", values=(4.0, 1.0, -0.5, 0.2), slope=0.0, radius=0.5, quartic=0.0, *, where="z", task="one", length=1.0, probes=0,
            sharp=True, steps=40):
    """½ xᵀ A x + gᵀ x + q ‖x‖⁴ around 0, of those eigenvalues and of a slope of that length; probes give the trace an interval."""
    n, rng = len(values), np.random.default_rng(3)
    turn, _ = np.linalg.qr(rng.standard_normal((n, n)))
    a, g = (turn * np.array(values)) @ turn.T, rng.standard_normal(n)
    g *= slope / np.linalg.norm(g)

    def both(x):
        return 0.5 * x @ a @ x + g @ x + quartic * (x @ x) ** 2, a @ x + g + 4 * quartic * (x @ x) * x

    sum_, wide = float(np.trace(a)), 0.3 if probes else 0.0
    hessian = Matrix(eigen=eigenvalues_of(a), trace=Traced(value=sum_, low=sum_ - wide, high=sum_ + wide, probes=probes), density=None)
    return Bending(
        where=where, label=label, task=task, split="test", rows=64, size=n, length=length, loss=0.25, slope=slope, matrices={"hessian": hessian},
        worst=worst_case(both, np.zeros(n), radius, steps=steps) if sharp else None,
        average=average_case(lambda x: both(x)[0], np.zeros(n), radius, draws=8) if sharp else None,
    )  # fmt: skip


def seen(figure):
    """[(text, its box in pixels)] of all that is written in a figure and can be seen."""
    figure.canvas.draw()
    axes = [axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)]
    beyond = [tick.label1 for axis in axes for tick in axis.get_major_ticks() if not _within(tick.get_loc(), axis.get_view_interval())]
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip() and text not in beyond]
    return [(text, text.get_window_extent()) for text in texts]


def _within(value, ends):
    """Whether a tick is drawn."""
    room = 1e-6 * (max(ends) - min(ends))
    return min(ends) - room <= value <= max(ends) + room


def crowded(figure):
    """Level words that cover each other, and words that leave the figure."""
    width, height = figure.get_size_inches() * figure.dpi
    found = seen(figure)
    level = [(text.get_text(), box) for text, box in found if not text.get_rotation()]
    x0, y0, x1, y1 = np.array([(box.x0, box.y0, box.x0 + 0.98 * box.width, box.y0 + 0.75 * box.height) for _, box in level]).T[:, :, None]
    over = np.triu((x0 < x1.T) & (x1 > x0.T) & (y0 < y1.T) & (y1 > y0.T), 1)
    pairs = [(level[i][0], level[j][0]) for i, j in np.argwhere(over)]
    return pairs + [text.get_text() for text, box in found if box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1]

"""A split on one page: every first frame, and every path seen from above and from the side."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
from camera_control.files import replacing
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from wm_bench.splits.model import BenchScene, Split

_INK = "#1f2430"
_PATH = "#d1702d"
_THUMB = (108, 192)


def draw_split(split: Split, path: Path) -> Path:
    """Draw a split as one PNG page: a column a camera plan, a row a scene, paths from above in metres.

    In a small plot up is ahead of the first camera and right is right of it; the dot is the start and short strokes
    are viewing directions.
    """
    if path.suffix.lower() != ".png":
        raise ValueError(f"cannot draw into {path.name!r}; allowed: a name ending in .png; example: split.png")
    columns: dict[str, list[BenchScene]] = {}
    for scene in split.scenes:
        columns.setdefault(scene.template, []).append(scene)
    order = sorted(columns)
    rows = max(len(scenes) for scenes in columns.values())
    figure = Figure(figsize=(2.1 * len(order) + 0.6, 2.35 * rows + 1.1), dpi=90, facecolor="white")
    top = 1.0 - 1.0 / figure.get_figheight()
    grid = figure.add_gridspec(
        2 * rows, len(order), height_ratios=[1.0, 1.05] * rows, hspace=0.12, wspace=0.1, left=0.02, right=0.99,
        top=top, bottom=0.02,
    )  # fmt: skip
    for column, template in enumerate(order):
        for row, scene in enumerate(columns[template]):
            view = figure.add_subplot(grid[2 * row, column])
            view.imshow(split.first_frame(scene, _THUMB))
            view.axis("off")
            view.set_title(scene.id, fontsize=7, color=_INK, pad=2)
            plan = figure.add_subplot(grid[2 * row + 1, column])
            _plan(plan, scene)
            if row == 0:
                name = template.removeprefix("traj_").removeprefix("hard_").partition("_")
                label = f"{name[0]} {name[2].replace('_', ' ')}"
                view.text(0.5, 1.35, label, transform=view.transAxes, ha="center", fontsize=10, color=_INK)
    pairs = sum(len(scene.pairs) for scene in split.scenes)
    seconds = split.scenes[0].duration_s
    words = f"{split.name}   {len(split.scenes)} scenes, {seconds:g} s, {pairs} revisit pairs   {split.revision}"
    # A page of few columns is narrower than its title at full size.
    size_pt = 12.0 if figure.get_figwidth() >= len(words) / 9.0 else 8.0
    lines = textwrap.wrap(words, max(20, int(105.0 * figure.get_figwidth() / size_pt)))
    figure.suptitle("\n".join(lines), x=0.02, ha="left", fontsize=size_pt, color=_INK)
    FigureCanvasAgg(figure)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": "wm-bench"})
    return path


def _plan(axes: Axes, scene: BenchScene) -> None:
    relative = np.linalg.inv(scene.c2w[0]) @ scene.c2w
    x, y, z = relative[:, :3, 3].T
    axes.plot(x, z, color=_PATH, linewidth=1.2)
    axes.plot(0, 0, "o", color=_INK, markersize=2.6)
    reach = max(float(np.ptp(x)), float(np.ptp(z)), 0.5)
    picks = np.linspace(0, len(relative) - 1, 13).round().astype(int)
    looking = relative[picks][:, [0, 2], 2] * 0.09 * reach
    for (px, pz), (dx, dz) in zip(np.stack([x, z], 1)[picks], looking, strict=True):
        axes.plot([px, px + dx], [pz, pz + dz], color="#35608d", linewidth=0.7)
    middle = np.array([(x.min() + x.max()) / 2, (z.min() + z.max()) / 2])
    axes.set_xlim(middle[0] - 1.05 * reach, middle[0] + 1.05 * reach)
    axes.set_ylim(middle[1] - 0.8 * reach, middle[1] + 0.62 * reach)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("#c8ccd6")
    rise = float(np.ptp(y))
    text = f"{float(np.linalg.norm(np.diff(relative[:, :3, 3], axis=0), axis=1).sum()):.1f} m"
    axes.text(0.03, 0.03, text + (f", rises {rise:.1f} m" if rise > 0.05 else ""), transform=axes.transAxes, fontsize=6)
    axes.text(0.97, 0.03, f"{len(scene.pairs)} pairs", transform=axes.transAxes, fontsize=6, ha="right")

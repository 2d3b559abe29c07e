"""Pictures of a camera path: from above, and laid over its first frame. Needs matplotlib; no window is opened."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from camera_control.files import replacing
from camera_control.geometry import crop_intrinsics, intrinsics_from_fov
from camera_control.trajectory import Trajectory

_COLOURS = "viridis"
_INK = "#1f2430"
_INCHES = 9.6  # width of an overlay, so that strokes and letters keep their size relative to the picture
_LABEL_GAP = 0.035  # of the picture's width
_NEAR = 0.02  # world units; points closer to the lens are behind it for drawing


def draw_top_view(trajectory: Trajectory, path: str | Path, *, frusta: int = 13) -> Path:
    """Draw the path from above as PNG: colour is speed, wedges are the camera's view, ticks are seconds.

    Right of the picture is right of the first camera, up is ahead of it; a strip below shows speed, turn and height.
    """
    relative = trajectory.relative()
    figure = Figure(figsize=(7.5, 8.2), dpi=120, facecolor="white", layout="constrained")
    plan, strip = figure.subplots(2, 1, height_ratios=(4.2, 1.0))
    _plan(figure, plan, relative, frusta)
    _strip(strip, relative)
    return _write(figure, path)


def draw_over_image(trajectory: Trajectory, image: str | Path | Image.Image, path: str | Path) -> Path:
    """Draw the camera's future positions over its first frame as PNG, with a small map in the corner.

    Positions are drawn 6 % of the path length below the lens, so that a straight walk shows as a line on the floor
    instead of one dot. Without intrinsics a 70 degree lens is assumed, and the caption says so.
    """
    picture = open_image(image)
    width, height = picture.size
    relative = trajectory.relative()
    if relative.intrinsics is None:
        lens, assumed = intrinsics_from_fov(70.0, (height, width)), True
    else:
        source = trajectory.image_size or _size_of(relative.intrinsics[0])
        lens, assumed = crop_intrinsics(relative.intrinsics[0], source, (height, width)), False

    figure = Figure(figsize=(_INCHES, _INCHES * height / width), dpi=max(width, 960) / _INCHES, facecolor="black")
    view = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    view.imshow(np.asarray(picture), extent=(-0.5, width - 0.5, height - 0.5, -0.5))
    view.set_xlim(-0.5, width - 0.5)
    view.set_ylim(height - 0.5, -0.5)
    view.axis("off")
    _path_in_view(view, relative, lens, width, height)
    _corner_map(figure, relative, width, height)
    seconds = (len(relative) - 1) / relative.fps
    caption = f"{len(relative)} frames, {seconds:.1f} s, {relative.steps.sum():.2f} units"
    caption += ", 70 degree lens assumed" if assumed else ""
    outline = [withStroke(linewidth=2.5, foreground="black")]
    view.text(
        0.015,
        0.975,
        caption,
        transform=view.transAxes,
        color="white",
        fontsize=9,
        va="top",
        path_effects=outline,
    )
    return _write(figure, path)


def open_image(image: str | Path | Image.Image) -> Image.Image:
    """Open a picture as upright RGB. Raises ValueError for a missing, empty or broken file."""
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    try:
        with Image.open(image) as opened:
            return ImageOps.exif_transpose(opened).convert("RGB")
    except FileNotFoundError:
        raise ValueError(f"no such picture: {image}; allowed: PNG, JPEG or WebP; example: street.png") from None
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError):
        raise ValueError(f"cannot read the picture {image}; allowed: PNG, JPEG or WebP; example: street.png") from None


def _plan(figure: Figure, axes: Axes, path: Trajectory, frusta: int) -> None:
    ground = path.c2w[:, [0, 2], 3]
    speed = _speed(path)
    spread = np.ptp(ground, axis=0)
    extent = max(float(spread.max()), 1e-3)
    lines = _coloured_line(ground, speed, width=3.0)
    wedge = 0.09 * extent
    picks = np.unique(np.linspace(0, len(path) - 1, min(frusta, len(path))).round().astype(int))
    shapes = [_wedge(path, int(frame), wedge) for frame in picks]
    axes.add_collection(PolyCollection(shapes, facecolors="#4c78a822", edgecolors="#4c78a8", linewidths=0.9, zorder=2))
    axes.add_collection(lines)
    whole = np.arange(0, (len(path) - 1) / path.fps + 1e-9, _nice_seconds(path))
    frames = np.minimum((whole * path.fps).round().astype(int), len(path) - 1)
    axes.scatter(ground[frames, 0], ground[frames, 1], s=16, color="white", edgecolors=_INK, linewidths=1.0, zorder=4)
    axes.scatter(
        ground[0, 0],
        ground[0, 1],
        s=80,
        marker="o",
        color="#2ca02c",
        edgecolors="white",
        linewidths=1.4,
        zorder=5,
        label="start",
    )
    axes.scatter(
        ground[-1, 0],
        ground[-1, 1],
        s=80,
        marker="s",
        color="#d62728",
        edgecolors="white",
        linewidths=1.4,
        zorder=5,
        label="end",
    )
    everything = np.concatenate([ground, *shapes])
    low, high = everything.min(axis=0), everything.max(axis=0)
    margin, floor = 0.08 * extent, 0.55 * float((high - low).max())
    for set_limits, a, b in ((axes.set_xlim, low[0], high[0]), (axes.set_ylim, low[1], high[1])):
        half = max((b - a) / 2.0, floor / 2.0) + margin
        set_limits((a + b) / 2.0 - half, (a + b) / 2.0 + half)
    axes.set_aspect("equal")
    axes.set_xlabel("right (world units)")
    axes.set_ylabel("ahead (world units)")
    axes.grid(color="#e6e8ee", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(loc="best", frameon=False)
    seconds = (len(path) - 1) / path.fps
    axes.set_title(
        f"{len(path)} frames, {seconds:.1f} s at {path.fps:g} fps, {path.steps.sum():.2f} units", loc="left", color=_INK
    )
    bar = figure.colorbar(lines, ax=axes, shrink=0.75, pad=0.02)
    bar.set_label("speed (units per second)")
    bar.outline.set_visible(False)


def _strip(axes: Axes, path: Trajectory) -> None:
    times_s = path.times_s
    turn = np.append(path.turns_deg, path.turns_deg[-1:]) * path.fps if len(path) > 1 else np.zeros(1)
    axes.plot(times_s, _speed(path), color="#35608d", linewidth=1.6)
    axes.set_ylabel("speed (units/s)", color="#35608d")
    axes.set_ylim(0.0, max(float(_speed(path).max()) * 1.15, 1e-3))
    axes.set_xlim(0.0, max(float(times_s[-1]), 1e-3))
    axes.set_xlabel("time (s)")
    axes.spines["top"].set_visible(False)
    twin = axes.twinx()
    twin.plot(times_s, turn, color="#d1702d", linewidth=1.3)
    twin.set_ylabel("turn (deg/s)", color="#d1702d")
    twin.set_ylim(0.0, max(float(turn.max()) * 1.15, 1.0))
    twin.spines["top"].set_visible(False)


def _path_in_view(axes: Axes, path: Trajectory, lens: NDArray[np.float64], width: int, height: int) -> None:
    drop = 0.06 * max(float(path.steps.sum()), 0.5)
    points = path.c2w[:, :3, 3] + np.array([0.0, drop, 0.0])
    visible = points[:, 2] > _NEAR
    depth = np.where(visible, points[:, 2], 1.0)
    pixels = np.stack([points[:, 0] / depth * lens[0] + lens[2], points[:, 1] / depth * lens[1] + lens[3]], axis=-1)
    inside = visible & (np.abs(pixels - lens[2:]) < 4.0 * max(width, height)).all(axis=1)
    speed = _speed(path)
    for start, stop in _runs(inside):
        if stop - start < 2:
            continue
        run = slice(start, stop)
        axes.plot(*pixels[run].T, color="black", alpha=0.55, linewidth=6.0, solid_capstyle="round", zorder=3)
        line = _coloured_line(pixels[run], speed[run], width=3.4, limits=(float(speed.min()), float(speed.max())))
        axes.add_collection(line, autolim=False)
    step = max(1, round(_nice_seconds(path) * path.fps))
    marks = [f for f in range(step, len(path), step) if inside[f] and _within(pixels[f], width, height)]
    if marks:
        size = np.clip(120.0 * depth[marks[0]] / depth[marks], 14.0, 120.0)
        axes.scatter(
            pixels[marks, 0], pixels[marks, 1], s=size, color="white", edgecolors="black", linewidths=1.2, zorder=5
        )
    if inside[-1]:
        end = pixels[-1]
        axes.scatter(end[0], end[1], s=60, marker="s", color="#d62728", edgecolors="white", linewidths=1.4, zorder=5)
    outline = [withStroke(linewidth=2.2, foreground="black")]
    taken: list[NDArray[np.float64]] = []
    for frame in marks:
        where = pixels[frame]
        if all(np.linalg.norm(where - other) > _LABEL_GAP * width for other in taken):
            axes.annotate(
                f"{frame / path.fps:g} s",
                where,
                xytext=(9, 0),
                textcoords="offset points",
                color="white",
                fontsize=8,
                va="center",
                path_effects=outline,
                zorder=6,
                annotation_clip=True,
            )
            taken.append(where)


def _corner_map(figure: Figure, path: Trajectory, width: int, height: int) -> None:
    side, gap = 0.3 * min(width, height), 0.012 * width
    box = figure.add_axes((1.0 - (side + gap) / width, gap / height, side / width, side / height))
    ground = path.c2w[:, [0, 2], 3]
    extent = max(float(np.ptp(ground, axis=0).max()), 1e-3)
    picks = np.unique(np.linspace(0, len(path) - 1, min(7, len(path))).round().astype(int))
    shapes = [_wedge(path, int(frame), 0.16 * extent) for frame in picks]
    box.add_collection(PolyCollection(shapes, facecolors="#ffffff30", edgecolors="#ffffffb0", linewidths=0.7))
    box.add_collection(_coloured_line(ground, _speed(path), width=2.0))
    box.scatter(ground[0, 0], ground[0, 1], s=20, color="#5fd35f", zorder=5)
    everything = np.concatenate([ground, *shapes])
    middle = (everything.min(axis=0) + everything.max(axis=0)) / 2.0
    half = 0.58 * float(np.ptp(everything, axis=0).max())
    box.set_xlim(middle[0] - half, middle[0] + half)
    box.set_ylim(middle[1] - half, middle[1] + half)
    box.set_xticks([])
    box.set_yticks([])
    box.set_facecolor("#000000a0")
    for spine in box.spines.values():
        spine.set_color("#ffffff80")


def _wedge(path: Trajectory, frame: int, length: float) -> NDArray[np.float64]:
    """The view from above as a triangle (3, 2) on the ground plane."""
    half = np.tan(np.radians(35.0))
    if path.intrinsics is not None:
        size = path.image_size or _size_of(path.intrinsics[0])
        half = size[1] / (2.0 * path.intrinsics[frame, 0])
    rotation, position = path.c2w[frame, :3, :3], path.c2w[frame, :3, 3]
    corners = position + length * np.array([[-half, 0.0, 1.0], [half, 0.0, 1.0]]) @ rotation.T
    return np.stack([position, *corners])[:, [0, 2]]


def _coloured_line(
    points: NDArray[np.float64], speed: NDArray[np.float64], *, width: float, limits: tuple[float, float] | None = None
) -> LineCollection:
    low, high = limits or (float(speed.min()), float(speed.max()))
    if high - low < 1e-3 * max(high, 1e-9):  # one speed: keep it off the end of the scale
        low, high = 0.0, max(1.25 * high, 1e-6)
    pieces = np.stack([points[:-1], points[1:]], axis=1)
    line = LineCollection(list(pieces), cmap=_COLOURS, norm=Normalize(low, high), linewidths=width, zorder=4)
    line.set_array(speed[: len(pieces)])
    line.set_capstyle("round")
    return line


def _speed(path: Trajectory) -> NDArray[np.float64]:
    """Units per second at every frame; the last frame repeats."""
    if len(path) == 1:
        return np.zeros(1)
    return np.append(path.steps, path.steps[-1]) * path.fps


def _nice_seconds(path: Trajectory) -> float:
    seconds = (len(path) - 1) / path.fps
    return next((step for step in (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0) if seconds / step <= 12), 300.0)


def _runs(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _within(pixel: NDArray[np.float64], width: int, height: int) -> bool:
    return bool(0 <= pixel[0] < width and 0 <= pixel[1] < height)


def _size_of(intrinsics: NDArray[np.float64]) -> tuple[int, int]:
    """Guess (height, width) from a centred principal point."""
    return max(1, round(2.0 * intrinsics[3])), max(1, round(2.0 * intrinsics[2]))


def _write(figure: Figure, path: str | Path) -> Path:
    target = Path(path)
    if target.suffix.lower() != ".png":
        raise ValueError(f"cannot draw into {target.name!r}; allowed: a name ending in .png; example: path.png")
    FigureCanvasAgg(figure)
    with replacing(target) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": "camera-control"})
    return target

"""The map to go on with: the first start that explains its tracks sharply, else the best of several.

A map grown from an unlucky pair of views or lens can explain most tracks roughly and still be wrong by tens of degrees.
It shows: its typical error is several times the tracker's. So a start counts as good only when most observations lie
within half a pixel, and where no start is good, equally sharp ones that disagree make the clip ambiguous.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pose_annotation.adjust import State, residuals
from pose_annotation.mapping import Map, View, best_pair, build
from pose_annotation.rotations import angle_deg
from pose_annotation.types import Array, Ints, Tracks

if TYPE_CHECKING:
    from pose_annotation.solve import SolveConfig

SWEEP_FOV_DEG = (45.0, 75.0, 60.0, 95.0, 30.0, 115.0)
_ROUGH_PX, _SHARP_PX = 1.5, 0.5  # at 640 pixels width or less
_LEAST_KNOWN, _LEAST_EXPLAINED, _LEAST_SHARP = 0.99, 0.9, 0.75
_SAME_DEG, _NEARLY_AS_SHARP = 2.0, 0.95


class Unsolvable(ValueError):
    """A clip whose camera cannot be found; the message is one line."""


class Attempt(NamedTuple):
    """A map from one start: the share of its keyframes solved, and of their observations within 1.5 px and 0.5 px."""

    found: Map
    known: float
    explained: float
    sharp: float

    @property
    def good(self) -> bool:
        """All keyframes are solved and nearly all observations explained, most of them sharply."""
        least = 0.0 if self.found.view.depth is not None else _LEAST_SHARP
        return self.known >= _LEAST_KNOWN and self.explained > _LEAST_EXPLAINED and self.sharp > least


def best_map(
    tracks: Tracks, keyframes: Ints, start: Array, depth: Array | None, config: SolveConfig
) -> tuple[Map, bool]:
    """The best map, and whether another one that says something else is as good.

    Other pairs of views, then other focal lengths, are tried only when the first guess does not work. Raises
    Unsolvable when no start works.
    """
    lens = start if start.ndim == 1 else start[keyframes]
    width = tracks.size[1]
    first = attempt(tracks, keyframes, lens, depth, config)
    if first is not None and first.good:
        return first.found, False
    square = np.array([width, width, width / 2, tracks.size[0] / 2])
    if first is None and best_pair(View(tracks), keyframes, square) is None:
        raise Unsolvable("no two views of the clip fit together; allowed: a clip of a mostly static world")
    tried = [first] if first is not None else []
    starts = [(lens, rank) for rank in (1, 2)] if depth is None else []
    if config.level != "fixed" and start.ndim == 1:
        focals = [width / (2 * np.tan(np.radians(fov) / 2)) for fov in SWEEP_FOV_DEG]
        starts += [(np.array([focal, focal, *start[2:]]), 0) for focal in focals]
    for other, rank in starts:
        found = attempt(tracks, keyframes, other, depth, config, rank)
        if found is not None:
            tried.append(found)
            if found.good:
                return found.found, False
    if not tried:
        raise Unsolvable("no camera path explains the tracked points; allowed: a clip of a mostly static world")
    best = max(tried, key=lambda t: (t.known >= _LEAST_KNOWN, round(t.sharp if depth is None else t.explained, 3)))
    return best.found, any(_rivals(best, other) for other in tried)


def _rivals(best: Attempt, other: Attempt) -> bool:
    """Whether another start is about as sharp and turns the camera otherwise."""
    if other.known < _LEAST_KNOWN or other.sharp < _NEARLY_AS_SHARP * best.sharp:
        return False
    turns = [t.found.rotation[t.found.known] for t in (best, other)]
    if len(turns[0]) != len(turns[1]):
        return True
    relative = [turn @ turn[0].T for turn in turns]
    return bool(angle_deg(*relative).max() > _SAME_DEG)


def attempt(
    tracks: Tracks, keyframes: Ints, lens: Array, depth: Array | None, config: SolveConfig, rank: int = 0
) -> Attempt | None:
    """Grow a map from one starting lens and the pair of views of this rank; None when that fails."""
    level = "fixed" if config.level == "fixed" else "shared_f"
    found = build(View(tracks, depth, config.depth_weight), keyframes, lens, config.prior, level, rank)
    if found is None:
        return None
    problem, places, ids, _ = found.problem(1.0)
    state = State(found.rotation[places], found.translation[places], found.lens[places], found.world[ids])
    error = np.linalg.norm(residuals(state, problem)[0], axis=1) / max(1.0, tracks.size[1] / 640.0)
    views = np.bincount(tracks.track[np.isin(tracks.frame, keyframes)], minlength=tracks.count)
    total = max(1, int(views[views >= 3].sum()))
    explained, sharp = (float((error < limit).sum() / total) for limit in (_ROUGH_PX, _SHARP_PX))
    return Attempt(found, float(found.known.mean()), explained, sharp)

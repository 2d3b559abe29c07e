"""Points that were lost and are in the picture again: the same track again, wherever its patch is found once more.

A point leaves the picture, is covered, or drowns in a blur, and its track ends; or a picture shows it long before a
track of it began. Once there is a map, it says where each point must be in every other picture. There the patch of the
nearest view of the track is searched, warped as the cameras say, and what is found counts only when it looks the same,
lies where the other points of the picture say, and leads back to where it came from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pose_annotation.mapping import Map
from pose_annotation.opencv import cv2
from pose_annotation.patches import Floats, Patches, smoothed, stretch
from pose_annotation.types import Array, Ints, Tracks

Pictures = Callable[[int], Floats]


@dataclass(frozen=True)
class RelinkConfig:
    """When a point counts as found again; lengths in pixels at 640 pixels width or less.

    `search_px` bounds how far from its place on the map a point is searched, `apart_px` how far it may lie from where
    the other points found in that picture say, `back_px` how exactly the way back must end, `likeness` the correlation
    from below. `scale` bounds the change of size between the two views, `angle_deg` the angle between their rays, and
    `stretch` how far the patch may be stretched beyond what the cameras say. `least_views` is how many keyframes must
    have seen a point before it is searched, `most` how many points are searched in a picture.
    """

    search_px: float = 6.0
    apart_px: float = 1.5
    back_px: float = 0.25
    likeness: float = 0.95
    scale: float = 1.6
    angle_deg: float = 30.0
    stretch: float = 1.3
    least_views: int = 3
    most: int = 1200
    patch_px: int = 5


class Wanted(NamedTuple):
    """Points to be searched: in frame `target` (m,), point `track` (m,), with its patch from frame `source` (m,), where
    it was at `at` (m, 2); where it should be (m, 2), and how its patch should be warped (m, 2, 2)."""

    target: Ints
    track: Ints
    source: Ints
    at: Array
    guess: Array
    warp: Array


def pictures_of(frames: NDArray[np.uint8]) -> Pictures:
    """Pictures of frames (f, H, W, 3) or (f, H, W) as patches want them, each worked out when first asked for."""
    kept: dict[int, Floats] = {}

    def picture(number: int) -> Floats:
        if number not in kept:
            frame = frames[number]
            kept[number] = smoothed(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) if frame.ndim == 3 else frame)
        return kept[number]

    return picture


def find_again(known: Map, picture: Pictures, config: RelinkConfig | None = None) -> tuple[Map, int]:
    """The map with every point that was found again in its solved frames, and how many observations that adds.

    The new observations belong to the old tracks, and come after all others in the tracks of the new map. Their depth
    is unknown.
    """
    config = config or RelinkConfig()
    wanted = candidates(known, config)
    found, ok = search(wanted, picture, config, max(1.0, known.view.tracks.size[1] / 640.0))
    count = int(ok.sum())
    if not count:
        return known, 0
    old, depth = known.view.tracks, known.view.depth
    tracks = Tracks(
        np.concatenate([old.frame, wanted.target[ok]]), np.concatenate([old.track, wanted.track[ok]]),
        np.concatenate([old.xy, found[ok]]), old.frames, old.size,
    )  # fmt: skip
    view = replace(
        known.view, tracks=tracks, alive=np.concatenate([known.view.alive, np.ones(count, bool)]),
        depth=None if depth is None else np.concatenate([depth, np.full(count, np.nan)]),
    )  # fmt: skip
    return replace(known, view=view), count


def candidates(known: Map, config: RelinkConfig) -> Wanted:
    """In every solved frame the points that should be in its picture and are not tracked there."""
    tracks, reach = known.view.tracks, config.patch_px + 2
    height, width = tracks.size
    rows, place, track = known.observations(placed=True)
    views = np.bincount(track, minlength=tracks.count)
    ids = np.flatnonzero(views >= config.least_views)
    parts: list[Wanted] = []
    compact = np.full(tracks.count, -1)
    compact[ids] = np.arange(len(ids))
    kept = compact[track] >= 0
    rows, place, point = rows[kept], place[kept], compact[track[kept]]
    solved = np.flatnonzero(known.known)
    # Row of the observation of a point in a solved frame, -1 for none; and whether a tracker was there at all.
    row_of = np.full((len(known.frames), len(ids)), -1)
    row_of[place, point] = rows
    tracked = np.zeros((tracks.frames, len(ids)), bool)
    here = compact[tracks.track] >= 0
    tracked[tracks.frame[here], compact[tracks.track[here]]] = True
    lens, world = known.intrinsics, known.world[ids]
    centres = known.centres
    for index in solved:
        y = world @ known.rotation[index].T + known.translation[index]
        ahead = np.maximum(y[:, 2:], 1e-6)
        guess = lens[index, :2] * y[:, :2] / ahead + lens[index, 2:]
        inside = (guess > reach).all(1) & (guess[:, 0] < width - reach) & (guess[:, 1] < height - reach)
        wanted = np.flatnonzero(inside & (y[:, 2] > 1e-3) & ~tracked[known.frames[index]])
        if not len(wanted):
            continue
        # The patch of the view that is nearest in time.
        gap = np.abs(known.frames[solved] - known.frames[index])[:, None] + np.where(
            row_of[solved][:, wanted] >= 0, 0, 10 * tracks.frames
        )
        source = solved[gap.argmin(0)]
        before = np.einsum("mij,mj->mi", known.rotation[source], world[wanted]) + known.translation[source]
        z = np.maximum(before[:, 2], 1e-6)
        ray, other = world[wanted] - centres[index], world[wanted] - centres[source]
        cosine = np.einsum("mj,mj->m", ray, other) / (
            np.linalg.norm(ray, axis=1) * np.linalg.norm(other, axis=1) + 1e-12
        )
        warp = _warps(y[wanted], lens[index], known.rotation[index] @ np.swapaxes(known.rotation[source], 1, 2))
        warp = warp * (z / lens[source, 0])[:, None, None]
        fits = (cosine > np.cos(np.radians(config.angle_deg))) & (stretch(warp.astype(np.float32)) < config.scale)
        wanted, source, warp = wanted[fits], source[fits], warp[fits]
        if len(wanted) > config.most:
            # Those seen most often; the order of equals is theirs in the tracks.
            best = np.sort(np.argsort(-views[ids[wanted]], kind="stable")[: config.most])
            wanted, source, warp = wanted[best], source[best], warp[best]
        target = np.full(len(wanted), known.frames[index])
        at = tracks.xy[row_of[source, wanted]]
        parts.append(Wanted(target, ids[wanted], known.frames[source], at, guess[wanted], warp))
    if not parts:
        none = np.zeros(0, np.int64)
        return Wanted(none, none, none, np.zeros((0, 2)), np.zeros((0, 2)), np.zeros((0, 2, 2)))
    return Wanted(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _warps(y: Array, lens: Array, turn: Array) -> Array:
    """(m, 2, 2) pixels of the picture by lengths across the axis of the source camera, for points y (m, 3)."""
    z = y[:, 2]
    by_y = np.zeros((len(y), 2, 3))
    by_y[:, 0, 0], by_y[:, 1, 1] = lens[0] / z, lens[1] / z
    by_y[:, 0, 2], by_y[:, 1, 2] = -lens[0] * y[:, 0] / z**2, -lens[1] * y[:, 1] / z**2
    return np.asarray(by_y @ turn[:, :, :2])


def search(wanted: Wanted, picture: Pictures, config: RelinkConfig, unit: float) -> tuple[Array, NDArray[np.bool_]]:
    """Where the points are (m, 2) px, and which of them (m,) are surely found."""
    count, reach = len(wanted.track), config.patch_px
    at, guess = ((xy - 0.5).astype(np.float32) for xy in (wanted.at, wanted.guess))
    expected = wanted.warp.astype(np.float32)
    # A patch is searched in many pictures, so it is cut once; and all patches of a picture are searched together.
    _, first, patch = np.unique(np.stack([wanted.source, wanted.track]), axis=1, return_index=True, return_inverse=True)
    patches = _cut(picture, wanted.source[first], at[first], reach)
    xy, warp, likeness = guess.copy(), expected.copy(), np.zeros(count, np.float32)
    for target, rows in _groups(wanted.target):
        match = patches.keep(patch.ravel()[rows]).find(picture(target), guess[rows], expected[rows])
        xy[rows], warp[rows], likeness[rows] = match
    height, width = picture(int(wanted.target[0])).shape if count else (0, 0)
    ok = (likeness > config.likeness) & (np.linalg.norm(xy - guess, axis=1) < config.search_px * unit)
    ok &= (xy > reach + 1).all(1) & (xy[:, 0] < width - 2 - reach) & (xy[:, 1] < height - 2 - reach)
    ok[ok] = stretch(warp[ok] @ np.linalg.inv(expected[ok])) < config.stretch
    for _, rows in _groups(wanted.target):
        # A camera that is slightly off moves all points of a picture alike.
        shift = (xy - guess)[rows]
        if ok[rows].any():
            ok[rows] &= np.linalg.norm(shift - np.median(shift[ok[rows]], axis=0), axis=1) < config.apart_px * unit
    kept = np.flatnonzero(ok)
    there = _cut(picture, wanted.target[kept], xy[kept], reach)
    for source, rows in _groups(wanted.source[kept]):
        here = kept[rows]
        back = there.keep(rows).find(picture(source), at[here], np.linalg.inv(warp[here]).astype(np.float32))
        ok[here] = np.linalg.norm(back.xy - at[here], axis=1) < config.back_px * unit
    return xy.astype(np.float64) + 0.5, ok


def _groups(values: Ints) -> Iterator[tuple[int, Ints]]:
    """Every value and the rows that have it."""
    order = np.argsort(values, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(values[order])) + 1):
        if len(rows):
            yield int(values[rows[0]]), rows


def _cut(picture: Pictures, frame: Ints, xy: Floats, reach: int) -> Patches:
    """The patches around points xy (m, 2) of frames (m,)."""
    side = (2 * reach + 1) ** 2
    values, solver = np.zeros((len(frame), side), np.float32), np.zeros((len(frame), 6, side), np.float32)
    for number, rows in _groups(frame):
        part = Patches.cut(picture(number), xy[rows], reach)
        values[rows], solver[rows] = part.values, part.solver
    return Patches(reach, values, solver)

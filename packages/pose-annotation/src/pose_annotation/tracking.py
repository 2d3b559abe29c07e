"""Follow corners through a clip: pyramidal Lucas-Kanade, checked backwards, then held to the patch they started from.

Frame-to-frame tracking drifts by a random walk, and a patch that only slides fits badly once the camera comes nearer.
So the position that counts is the match of a point's first patch, stretched as needed (`patches.py`): the error stays a
few tenths of a pixel however old the track. A patch that no longer looks the same, or is stretched too far, is cut
anew where the point is now, if the flow there and back agrees closely; else the track ends and another point takes its
place. Deterministic: no random choice anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pose_annotation.opencv import cv2
from pose_annotation.patches import Floats, Patches, smoothed, stretch
from pose_annotation.threads import one_thread
from pose_annotation.types import Ints, Tracks


@dataclass(frozen=True)
class TrackingConfig:
    """Settings of the tracker; lengths in pixels of the pictures it is given.

    `backward_px` bounds the distance after tracking there and back, `loose_px` the same for a point that loses its
    patch; `match_px` bounds how far the match of the patch may lie from the flow, `likeness` its correlation from
    below, `stretch` its change of size in any direction. `patch_px` is half the side of a patch. Points are refilled
    below `refill_below` times `points`.
    """

    points: int = 900
    quality: float = 0.005
    spacing_px: float = 7.0
    window_px: int = 15
    levels: int = 3
    backward_px: float = 1.0
    patch_px: int = 5
    match_px: float = 3.0
    loose_px: float = 0.3
    likeness: float = 0.95
    stretch: float = 1.6
    refill_below: float = 0.85


class KltTracker:
    """Corners followed by Lucas-Kanade and held to their first patch; the default tracker, without weights."""

    name = "klt"
    version = "2"
    weights_id = "none"

    def __init__(self, config: TrackingConfig | None = None) -> None:
        self.config = config or TrackingConfig()

    @one_thread()
    def track(self, frames: Iterable[NDArray[np.uint8]], mask: NDArray[np.bool_] | None = None) -> Tracks:
        """Follow points through frames (H, W, 3) or (H, W) uint8.

        `mask` (f, H, W) is true where the world stands still; points start only there. Raises ValueError for no
        frames and for frames of different sizes.
        """
        return _Run(self.config, mask).follow(frames)


class _Run:
    def __init__(self, config: TrackingConfig, mask: NDArray[np.bool_] | None) -> None:
        self.config = config
        self.mask = mask
        self.seen: list[tuple[int, NDArray[np.int64], Floats]] = []
        self.next_id = 0
        self.xy: Floats = np.zeros((0, 2), np.float32)
        self.ids = np.zeros(0, np.int64)
        self.warp: Floats = np.zeros((0, 2, 2), np.float32)
        self.patches = Patches.none(config.patch_px)

    def follow(self, frames: Iterable[NDArray[np.uint8]]) -> Tracks:
        """Run over all frames."""
        previous: NDArray[np.uint8] | None = None
        count, size = 0, (0, 0)
        for number, frame in enumerate(frames):
            grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) if frame.ndim == 3 else np.ascontiguousarray(frame)
            if number and grey.shape != size:
                raise ValueError(f"frame {number} is {grey.shape}, the first {size}; allowed: frames of one size")
            size = (int(grey.shape[0]), int(grey.shape[1]))
            picture = smoothed(grey)
            if previous is not None and len(self.ids):
                self._advance(previous, grey, picture)
            if len(self.ids) < self.config.refill_below * self.config.points:
                self._refill(grey, picture, number)
            self.seen.append((number, self.ids.copy(), self.xy.copy()))
            previous, count = grey, number + 1
        if not count:
            raise ValueError("the clip has no frame; allowed: at least one; example: 81 frames")
        frame_of = np.concatenate([np.full(len(ids), n, np.int64) for n, ids, _ in self.seen])
        ids = np.concatenate([ids for _, ids, _ in self.seen])
        xy = np.concatenate([xy for _, _, xy in self.seen]).astype(np.float64) + 0.5
        return Tracks(frame_of, ids, xy, count, size)

    def _flow(
        self, source: NDArray[np.uint8], target: NDArray[np.uint8], xy: Floats, guess: Floats
    ) -> tuple[Floats, NDArray[np.bool_]]:
        side = self.config.window_px
        found, status, _ = cv2.calcOpticalFlowPyrLK(
            source, target, xy, guess.copy(), winSize=(side, side), maxLevel=self.config.levels,
            flags=cv2.OPTFLOW_USE_INITIAL_FLOW, minEigThreshold=1e-4,
            criteria=(cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 0.01),
        )  # fmt: skip
        return found.reshape(-1, 2), status.ravel() > 0

    def _advance(self, previous: NDArray[np.uint8], grey: NDArray[np.uint8], picture: Floats) -> None:
        rough, ok = self._flow(previous, grey, self.xy, self.xy)
        back, ok_back = self._flow(grey, previous, rough, self.xy)
        ok &= ok_back & (np.linalg.norm(back - self.xy, axis=1) < self.config.backward_px)
        rough = np.where(ok[:, None], rough, self.xy)
        match = self.patches.find(picture, rough, self.warp)
        border, (height, width) = self.config.patch_px - 1, grey.shape
        held = ok & (match.likeness > self.config.likeness)
        held &= np.linalg.norm(match.xy - rough, axis=1) < self.config.match_px
        close = np.linalg.norm(back - self.xy, axis=1) < self.config.loose_px
        xy = np.where(held[:, None], match.xy, rough)
        ok = held | (ok & close)
        ok &= (xy > border).all(1) & (xy[:, 0] < width - 1 - border) & (xy[:, 1] < height - 1 - border)
        self.xy, self.warp, self.ids = xy[ok], match.warp[ok], self.ids[ok]
        self.patches = self.patches.keep(ok)
        # What blurred, turned or came too near goes on from a new patch: some drift, but the views stay connected.
        again = ~held[ok] | (stretch(self.warp) > self.config.stretch)
        if again.any():
            self.patches = self.patches.replaced(again, Patches.cut(picture, self.xy[again], self.config.patch_px))
            self.warp[again] = np.eye(2, dtype=np.float32)

    def _refill(self, grey: NDArray[np.uint8], picture: Floats, number: int) -> None:
        # The whole patch must lie inside, with the pixel beyond that its slopes need.
        edge = self.config.patch_px + 1
        free = np.zeros(grey.shape, np.uint8)
        free[edge:-edge, edge:-edge] = 255
        if self.mask is not None:
            free[~self.mask[number]] = 0
        for x, y in self.xy:
            cv2.circle(free, (round(float(x)), round(float(y))), int(self.config.spacing_px), 0, -1)
        wanted = self.config.points - len(self.ids)
        corners = cv2.goodFeaturesToTrack(grey, wanted, self.config.quality, self.config.spacing_px, mask=free)
        if corners is None or not len(corners):
            return
        new: Floats = corners.reshape(-1, 2).astype(np.float32)
        count = len(new)
        self.xy = np.concatenate([self.xy, new])
        self.warp = np.concatenate([self.warp, np.tile(np.eye(2, dtype=np.float32), (count, 1, 1))])
        self.ids = np.concatenate([self.ids, self.next_id + np.arange(count)])
        self.patches = self.patches.join(Patches.cut(picture, new, self.config.patch_px))
        self.next_id += count


def median_flow_px(tracks: Tracks, first: int, second: int) -> float:
    """Median motion in pixels of the points seen in both frames; nan when there is none."""
    _, a, b = tracks.pair(first, second)
    return float(np.median(np.linalg.norm(b - a, axis=1))) if len(a) else float("nan")


def choose_keyframes(tracks: Tracks, flow_px: float, least_common: int = 60) -> Ints:
    """Frame numbers (k,): the first, the last, and one whenever the picture has moved by `flow_px` in the median.

    A frame is also taken when fewer than `least_common` points are left from the last keyframe.
    """
    chosen = [0]
    for frame in range(1, tracks.frames):
        common, a, b = tracks.pair(chosen[-1], frame)
        flow = float(np.median(np.linalg.norm(b - a, axis=1))) if len(a) else np.inf
        if flow >= flow_px or (len(common) < least_common and frame > chosen[-1] + 1):
            chosen.append(frame)
    if chosen[-1] != tracks.frames - 1:
        chosen.append(tracks.frames - 1)
    return np.array(chosen)

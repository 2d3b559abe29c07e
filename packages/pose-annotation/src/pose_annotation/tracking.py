"""Follow corners through a clip: pyramidal Lucas-Kanade, checked backwards, held to the patch it started from.

Frame-to-frame tracking drifts by a random walk. So every point is also matched against its patch in an earlier
keyframe, and that position counts while the patch still looks the same. A patch that has been stretched or half covered
gives a biased match, worse than drift: when it no longer looks the same, the next keyframe's patch takes its place. A
point that fails the check backwards is dropped; keyframes refill the picture. Deterministic: no random choice anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pose_annotation.opencv import cv2
from pose_annotation.types import Ints, Tracks


@dataclass(frozen=True)
class TrackingConfig:
    """Settings of the tracker; lengths in pixels of the pictures it is given.

    `backward_px` bounds the distance after tracking there and back; `anchor_px` bounds how far the match with the
    keyframe may move a point, `anchor_likeness` the correlation of the two patches from below; `keyframe_px` is the
    median flow that makes a new keyframe.
    """

    points: int = 900
    quality: float = 0.005
    spacing_px: float = 7.0
    window_px: int = 15
    levels: int = 3
    backward_px: float = 0.6
    anchor_px: float = 0.5
    anchor_likeness: float = 0.95
    anchor_backward_px: float = 0.3
    keyframe_px: float = 10.0
    refill_below: float = 0.7


class KltTracker:
    """Corners followed by Lucas-Kanade; the default tracker, without weights."""

    name = "klt"
    version = "1"
    weights_id = "none"

    def __init__(self, config: TrackingConfig | None = None) -> None:
        self.config = config or TrackingConfig()

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
        self.anchors: list[NDArray[np.uint8]] = []
        self.seen: list[tuple[int, NDArray[np.int64], NDArray[np.float32]]] = []
        self.next_id = 0
        self.xy = np.zeros((0, 2), np.float32)
        self.ids = np.zeros(0, np.int64)
        self.anchor = np.zeros(0, np.int64)
        self.start = np.zeros((0, 2), np.float32)
        self.since = np.zeros((0, 2), np.float32)
        self.held = np.zeros(0, bool)  # points whose keyframe patch still looks the same

    def follow(self, frames: Iterable[NDArray[np.uint8]]) -> Tracks:
        """Run over all frames."""
        previous: NDArray[np.uint8] | None = None
        count, size = 0, (0, 0)
        for number, frame in enumerate(frames):
            grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) if frame.ndim == 3 else np.ascontiguousarray(frame)
            if number and grey.shape != size:
                raise ValueError(f"frame {number} is {grey.shape}, the first {size}; allowed: frames of one size")
            size = (int(grey.shape[0]), int(grey.shape[1]))
            if previous is not None and len(self.ids):
                self._advance(previous, grey, size)
            flow = np.linalg.norm(self.xy - self.since, axis=1)
            moved = len(flow) == 0 or float(np.median(flow)) > self.config.keyframe_px
            if moved or len(self.ids) < self.config.refill_below * self.config.points:
                self._refill(grey, number)
            self.seen.append((number, self.ids.copy(), self.xy.copy()))
            previous, count = grey, number + 1
        if not count:
            raise ValueError("the clip has no frame; allowed: at least one; example: 81 frames")
        frame_of = np.concatenate([np.full(len(ids), n, np.int64) for n, ids, _ in self.seen])
        ids = np.concatenate([ids for _, ids, _ in self.seen])
        xy = np.concatenate([xy for _, _, xy in self.seen]).astype(np.float64) + 0.5
        return Tracks(frame_of, ids, xy, count, size)

    def _match(
        self,
        source: NDArray[np.uint8],
        target: NDArray[np.uint8],
        xy: NDArray[np.float32],
        guess: NDArray[np.float32],
        levels: int,
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        side = self.config.window_px
        found, status, _ = cv2.calcOpticalFlowPyrLK(
            source, target, xy, guess.copy(), winSize=(side, side), maxLevel=levels, flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
            criteria=(cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 0.005), minEigThreshold=1e-4,
        )  # fmt: skip
        return found.reshape(-1, 2), status.ravel() > 0

    def _advance(self, previous: NDArray[np.uint8], current: NDArray[np.uint8], size: tuple[int, int]) -> None:
        found, ok = self._match(previous, current, self.xy, self.xy, self.config.levels)
        back, ok_back = self._match(current, previous, found, self.xy, self.config.levels)
        ok &= ok_back & (np.linalg.norm(back - self.xy, axis=1) < self.config.backward_px)
        border = self.config.window_px // 3
        ok &= (found[:, 0] > border) & (found[:, 1] > border)
        ok &= (found[:, 0] < size[1] - 1 - border) & (found[:, 1] < size[0] - 1 - border)
        self._keep(ok, found)
        for number in np.unique(self.anchor[self.held]):
            rows = np.flatnonzero((self.anchor == number) & self.held)
            patch = self.anchors[number]
            again, ok = self._match(patch, current, self.start[rows], self.xy[rows], 0)
            home, ok_home = self._match(current, patch, again, self.start[rows], 0)
            near = np.linalg.norm(again - self.xy[rows], axis=1) < self.config.anchor_px
            close = np.linalg.norm(home - self.start[rows], axis=1) < self.config.anchor_backward_px
            agreed = ok & ok_home & near & close
            alike = _likeness(patch, self.start[rows], current, again, self.config.window_px)
            agreed &= alike > self.config.anchor_likeness
            self.xy[rows[agreed]] = again[agreed]
            self.held[rows[~agreed]] = False

    def _keep(self, ok: NDArray[np.bool_], found: NDArray[np.float32]) -> None:
        self.xy, self.ids = found[ok].astype(np.float32), self.ids[ok]
        self.anchor, self.start, self.since = self.anchor[ok], self.start[ok], self.since[ok]
        self.held = self.held[ok]

    def _refill(self, grey: NDArray[np.uint8], number: int) -> None:
        self.since = self.xy.copy()
        lost = ~self.held
        if lost.any():
            self.anchors.append(grey)
            self.anchor[lost], self.start[lost], self.held[lost] = len(self.anchors) - 1, self.xy[lost], True
        free = np.full(grey.shape, 255, np.uint8)
        if self.mask is not None:
            free[~self.mask[number]] = 0
        for x, y in self.xy:
            cv2.circle(free, (round(float(x)), round(float(y))), int(self.config.spacing_px), 0, -1)
        wanted = self.config.points - len(self.ids)
        if wanted <= 0:
            return
        corners = cv2.goodFeaturesToTrack(grey, wanted, self.config.quality, self.config.spacing_px, mask=free)
        if corners is None or not len(corners):
            return
        new: NDArray[np.float32] = cv2.cornerSubPix(
            grey, corners.reshape(-1, 1, 2).astype(np.float32), (3, 3), (-1, -1), (cv2.TERM_CRITERIA_COUNT, 5, 0.01)
        ).reshape(-1, 2)
        self.anchors.append(grey)
        count = len(new)
        self.xy = np.concatenate([self.xy, new])
        self.since = np.concatenate([self.since, new])
        self.start = np.concatenate([self.start, new])
        self.anchor = np.concatenate([self.anchor, np.full(count, len(self.anchors) - 1)])
        self.held = np.concatenate([self.held, np.ones(count, bool)])
        self.ids = np.concatenate([self.ids, self.next_id + np.arange(count)])
        self.next_id += count


def _likeness(
    first: NDArray[np.uint8], at_first: NDArray[np.float32], second: NDArray[np.uint8], at_second: NDArray[np.float32],
    side: int,
) -> NDArray[np.float64]:  # fmt: skip
    """Correlation (n,) of the square patches around points (n, 2) of two pictures."""
    patches = []
    reach = np.arange(side, dtype=np.float32) - side // 2
    for picture, at in ((first, at_first), (second, at_second)):
        x, y = at[:, :1] + np.tile(reach, side), at[:, 1:] + np.repeat(reach, side)
        flat = cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).astype(np.float64)
        flat -= flat.mean(1, keepdims=True)
        patches.append(flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9))
    return np.einsum("nk,nk->n", patches[0], patches[1])


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

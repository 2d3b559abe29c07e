"""Quality numbers of a clip: motion, flow, colour, blank frames, and the camera's own. None means not measured."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pose_annotation.fuse import scale_variation
from pose_annotation.opencv import cv2
from pose_annotation.types import Array, CameraTrack

# ffmpeg's five taps in units of 1 / 32768, and the 7 bits below a grey level that its first pass keeps.
_TAPS = np.rint(np.array([0.054488685, 0.244201342, 0.402619947, 0.244201342, 0.054488685]) * 32768)
_FRACTION = 128.0


class MotionMeter:
    """VMAF's motion, frame by frame: the mean absolute difference of blurred luma to the frame before, in grey levels.

    The filter ffmpeg calls vmafmotion, in its own integer arithmetic. Reference: annotate.md 3.3.
    """

    def __init__(self) -> None:
        self._before: Array | None = None

    def measure(self, luma: NDArray[np.uint8]) -> float:
        """Motion of the next luma frame (H, W) uint8; 0 for the first and where the size changes."""
        blurred = _blurred(luma)
        before, self._before = self._before, blurred
        if before is None or before.shape != blurred.shape:
            return 0.0
        return float(np.abs(blurred - before).sum() / (blurred.size * _FRACTION))


def _blurred(luma: NDArray[np.uint8]) -> Array:
    """Down, then across, rounded down after each; ffmpeg mirrors without the edge above and left, with it otherwise."""
    framed = cv2.copyMakeBorder(luma, 2, 0, 2, 0, cv2.BORDER_REFLECT_101)
    framed = cv2.copyMakeBorder(framed, 0, 2, 0, 2, cv2.BORDER_REFLECT).astype(np.float64)
    down = np.floor(cv2.filter2D(framed, -1, _TAPS[:, None])[2:-2] / 256.0)
    across: Array = np.floor(cv2.filter2D(down, -1, _TAPS[None, :])[:, 2:-2] / 32768.0)
    return across


def vmaf_motion(frames: NDArray[np.uint8]) -> float:
    """VMAF's motion of luma frames (f, H, W) uint8, averaged over all frames; the first counts as 0."""
    meter = MotionMeter()
    return float(np.mean([meter.measure(frame) for frame in frames]))


def luma(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey (f, H, W) of RGB frames."""
    return np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames])


def saturation(frames: NDArray[np.uint8], every: int = 8) -> float:
    """Mean HSV saturation on the scale 0 to 255 over every 8th frame."""
    return float(np.mean([cv2.cvtColor(f, cv2.COLOR_RGB2HSV)[..., 1].mean() for f in frames[::every]]))


def blank_share(frames: NDArray[np.uint8]) -> float:
    """Share of frames that are nearly one grey (standard deviation below 2) or nearly black (95 % below 8)."""
    grey = luma(frames)
    flat = grey.reshape(len(grey), -1)
    return float(np.mean((flat.std(1) < 2.0) | ((flat < 8).mean(1) > 0.95)))


def flow_motion(frames: NDArray[np.uint8], fps: float, width: int = 320, seconds: float = 60.0) -> float | None:
    """Mean length of optical flow over half a second, chained from frame to frame (DIS).

    In pixels of the frames given. Chained, because one search over half a second loses large motion. None for clips
    shorter than that.
    """
    step = max(1, round(0.5 * fps))
    used = frames[: int(seconds * fps) + 1]
    if len(used) <= step:
        return None
    size = (width, max(16, round(used.shape[1] * width / used.shape[2])))
    engine = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    x, y = np.meshgrid(np.arange(size[0], dtype=np.float32), np.arange(size[1], dtype=np.float32))
    total: Array = np.zeros((size[1], size[0], 2), np.float32)
    lengths, before = [], None
    for number, frame in enumerate(used):
        grey = cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA)
        if before is not None:
            flow = engine.calc(before, grey, None)
            total = total + cv2.remap(flow, x + total[..., 0], y + total[..., 1], cv2.INTER_LINEAR)
            if number % step == 0:
                lengths.append(float(np.linalg.norm(total, axis=-1).mean()))
                total = np.zeros_like(total)
        before = grey
    return float(np.mean(lengths)) * used.shape[2] / width


def picture_scores(
    frames: NDArray[np.uint8], fps: float, motion: Array, source_width: int
) -> dict[str, float | int | None]:
    """All scores that need pictures only, by name; those that need weights are None.

    `motion` (f,) is MotionMeter's, taken at the source's size; `source_width` is the unit of the flow's pixels.
    """
    sharp = [float(cv2.Laplacian(cv2.cvtColor(f, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var()) for f in frames[::8]]
    flow = flow_motion(frames, fps)
    return {
        "vmaf_motion": float(motion.mean()),
        "flow": None if flow is None else flow * source_width / frames.shape[2],
        "saturation": saturation(frames),
        "blank_share": blank_share(frames),
        "sharpness": float(np.mean(sharp)),
        "scenes": 1,
        "dover": None,
        "entities": None,
        "vlm_quality": None,
    }


def field_of_view_deg(intrinsics: Array, size: tuple[int, int]) -> Array:
    """Horizontal and vertical field of view (f, 2) in degrees of lenses (f, 4) on pictures (height, width)."""
    sides = np.array([size[1], size[0]])
    return np.degrees(2.0 * np.arctan(sides / (2.0 * intrinsics[:, :2])))


def focal_mismatch(fx: Array, fy: Array) -> Array:
    """|fx - fy| over their mean."""
    return np.abs(fx - fy) / ((fx + fy) / 2.0)


def camera_scores(camera: CameraTrack, scale_raw: Array | None = None) -> dict[str, float | None]:
    """Scores of a solved camera: fields of view, focal mismatch, scale variation, smoothness, residuals."""
    fov = field_of_view_deg(camera.intrinsics, camera.size)
    steps = np.linalg.norm(np.diff(camera.c2w[:, :3, 3], axis=0), axis=1)
    typical = float(np.median(steps))
    rotation = camera.c2w[:, :3, :3]
    chord = np.linalg.norm(np.diff(rotation, axis=0), axis=(1, 2)) / (2.0 * np.sqrt(2.0))
    turns = np.degrees(2.0 * np.arcsin(np.clip(chord, 0.0, 1.0)))
    known = camera.rmse_px[np.isfinite(camera.rmse_px)]
    return {
        "fov_x_min": float(fov[:, 0].min()),
        "fov_x_max": float(fov[:, 0].max()),
        "fov_y_min": float(fov[:, 1].min()),
        "fov_y_max": float(fov[:, 1].max()),
        "focal_mismatch": float(focal_mismatch(camera.intrinsics[:, 0], camera.intrinsics[:, 1]).max()),
        "scale_variation": None if scale_raw is None else scale_variation(scale_raw),
        "largest_step": float(steps.max() / typical) if len(steps) and typical > 1e-9 else 0.0,
        "largest_turn_deg": float(turns.max()) if len(turns) else 0.0,
        "jerk": _jerk(camera.c2w[:, :3, 3], typical),
        "rmse_px": float(np.sqrt(np.mean(known**2))) if len(known) else None,
        "inlier_ratio": float(camera.inlier_ratio.min()),
        "finite": float(np.isfinite(camera.c2w).all() and np.isfinite(camera.intrinsics).all()),
    }


def _jerk(centres: Array, typical: float) -> float:
    """Root mean square third difference of positions, in typical steps."""
    if len(centres) < 4 or typical <= 1e-9:
        return 0.0
    return float(np.sqrt(np.mean(np.sum(np.diff(centres, 3, axis=0) ** 2, axis=1))) / typical)

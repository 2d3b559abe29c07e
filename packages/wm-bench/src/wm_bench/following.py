"""Does a generated video follow its camera? Numbers against the exact render of the same path.

All videos are uint8 (f, H, W, 3); frame 0 is the given picture and is never scored.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

NEAR = slice(1, 17)  # the first second
FAR = slice(17, None)  # the rest


class Following(NamedTuple):
    """Scores of one clip; PSNR in dB, sharpness and colour as ratios to the render."""

    near: float  # PSNR of frames 1-16
    far: float  # PSNR of frames 17-end
    still_near: float  # the same for the first frame repeated
    still_far: float
    true_path: float  # PSNR of frames 1-end
    opposite_path: float  # the same for a video generated along the opposite path
    sharpness: float  # Laplacian variance over the render's
    colour: float  # largest relative difference of a mean colour channel
    codec: float  # PSNR of the codec's reconstruction of the render
    sharpness_match: float  # as sharp as the render, frame by frame: 1 is equal, less is softer or noisier
    spectrum_match: float  # the same over octaves of detail: 1 is equal


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over frames of the peak signal-to-noise ratio in dB; identical frames count as 100 dB."""
    error = np.square(a.astype(np.float32) - b.astype(np.float32)).reshape(len(a), -1).mean(1)
    return float(np.mean(10 * np.log10(255.0**2 / np.maximum(error, 255.0**2 * 1e-10))))


def laplacian_variance(video: np.ndarray) -> float:
    """Mean over frames of the variance of the 4-neighbour Laplacian of luma: how sharp a video is."""
    return float(_frame_sharpness(video).mean())


def sharpness_match(video: np.ndarray, truth: np.ndarray) -> float:
    """Mean over frames of the Laplacian variances' ratio, turned over where it exceeds 1.

    The ratio of the means pays for noise and lets sharp frames make up for soft ones; this does neither.
    """
    return float(_smaller_over_larger(_frame_sharpness(video), _frame_sharpness(truth)).mean())


def spectrum_match(video: np.ndarray, truth: np.ndarray) -> float:
    """Mean over frames and octaves of spatial frequency of the smaller over the larger luma energy, in (0, 1].

    Grain that has the right Laplacian variance still has the wrong energy in the octaves it does not live in.
    """
    return float(_smaller_over_larger(_octave_energy(video), _octave_energy(truth)).mean())


def _luma(video: np.ndarray) -> np.ndarray:
    return np.asarray(video.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32))


def _frame_sharpness(video: np.ndarray) -> np.ndarray:
    """Laplacian variance of each frame (f,)."""
    luma = _luma(video)
    inner = luma[:, 1:-1, 1:-1]
    around = luma[:, :-2, 1:-1] + luma[:, 2:, 1:-1] + luma[:, 1:-1, :-2] + luma[:, 1:-1, 2:]
    return np.asarray((around - 4 * inner).reshape(len(video), -1).var(1))


def _octave_energy(video: np.ndarray) -> np.ndarray:
    """Energy (f, octaves) of each frame between halvings of the highest frequency a pixel grid carries."""
    luma = _luma(video)
    height, width = luma.shape[1:]
    # A window, for the picture's border is no detail.
    window = np.multiply.outer(np.hanning(height), np.hanning(width))
    power = np.abs(np.fft.rfft2((luma - luma.mean((1, 2), keepdims=True)) * window)) ** 2
    # Twice, for all columns but the outer ones stand for two frequencies.
    power[:, :, 1 : (width + 1) // 2] *= 2
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    octave = np.floor(np.log2(np.maximum(0.5 / np.maximum(radius, 1e-9), 1.0))).astype(int)
    count = max(1, int(np.log2(min(height, width))) - 2)
    bands = [power[:, octave == number].sum(1) for number in range(count)]
    return np.stack(bands, 1)


def _smaller_over_larger(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    low, high = np.minimum(a, b), np.maximum(a, b)
    return np.asarray(np.where(high > 1e-9, low / np.maximum(high, 1e-9), 1.0))


def colour_difference(video: np.ndarray, truth: np.ndarray) -> float:
    """Largest relative difference of the mean of a colour channel, over frames and channels of the time average."""
    a, b = (v.reshape(-1, 3).astype(np.float64).mean(0) for v in (video, truth))
    return float(np.max(np.abs(a - b) / np.maximum(b, 1.0)))


def opposite_path(c2w: np.ndarray) -> np.ndarray:
    """The path with every motion turned round: forward becomes back, left becomes right, up becomes down.

    Seen from the first camera, a pose (R, t) becomes (R', -t).
    """
    first = np.linalg.inv(c2w[0].astype(np.float64))
    relative = first @ c2w.astype(np.float64)
    turned = relative.copy()
    turned[:, :3, :3] = relative[:, :3, :3].transpose(0, 2, 1)
    turned[:, :3, 3] = -relative[:, :3, 3]
    return (c2w[0].astype(np.float64) @ turned).astype(np.float32)


def score(video: np.ndarray, opposite: np.ndarray, truth: np.ndarray, coded: np.ndarray) -> Following:
    """All scores of one clip.

    Args:
        video: Generated along the true path.
        opposite: Generated from the same picture along opposite_path, with the same noise.
        truth: The render of the true path.
        coded: The codec's reconstruction of truth.
    """
    still = np.broadcast_to(truth[:1], truth.shape)
    later = slice(1, None)
    return Following(
        near=psnr(video[NEAR], truth[NEAR]),
        far=psnr(video[FAR], truth[FAR]),
        still_near=psnr(still[NEAR], truth[NEAR]),
        still_far=psnr(still[FAR], truth[FAR]),
        true_path=psnr(video[later], truth[later]),
        opposite_path=psnr(opposite[later], truth[later]),
        sharpness=laplacian_variance(video[later]) / max(laplacian_variance(truth[later]), 1e-9),
        colour=colour_difference(video[later], truth[later]),
        codec=psnr(coded, truth),
        sharpness_match=sharpness_match(video[later], truth[later]),
        spectrum_match=spectrum_match(video[later], truth[later]),
    )


def summary(scores: list[Following], moving_below: float = 20.0) -> dict[str, float]:
    """The table of `sana-wm bench pocket`: means over clips.

    The near gain counts clips on which repeating the first frame scores below moving_below dB over frames 1-16; the
    far gain counts those on which it does over frames 17-end.
    """
    near = [s.near - s.still_near for s in scores if s.still_near < moving_below]
    far = [s.far - s.still_far for s in scores if s.still_far < moving_below]
    return {
        "clips": len(scores),
        "codec_psnr_db": float(np.mean([s.codec for s in scores])),
        "near_clips": len(near),
        "near_gain_db": float(np.mean(near)) if near else float("nan"),
        "far_clips": len(far),
        "far_gain_db": float(np.mean(far)) if far else float("nan"),
        "true_beats_opposite": float(np.mean([s.true_path > s.opposite_path for s in scores])),
        "sharpness_ratio": float(np.mean([s.sharpness for s in scores])),
        "sharpness_match": float(np.mean([s.sharpness_match for s in scores])),
        "spectrum_match": float(np.mean([s.spectrum_match for s in scores])),
        "colour_difference": float(np.mean([s.colour for s in scores])),
        "colour_difference_worst": float(np.max([s.colour for s in scores])),
    }

"""Every number the benchmark can print: unit, direction, and the words of its definition."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Metric(NamedTuple):
    """A number's unit, whether more is better, how scenes become one value, and what it is."""

    unit: str
    better: Literal["higher", "lower", "neither"]
    over: Literal["scenes", "pairs"]
    what: str


POSE = {
    "rot_err_deg": Metric("deg", "lower", "scenes", "mean geodesic angle to the true camera"),
    "trans_err_m": Metric("m", "lower", "scenes", "mean distance to the true camera centre"),
    "cam_mc": Metric("m", "lower", "scenes", "mean Frobenius norm of the [R|t] difference"),
    "rel_rot_deg": Metric("deg", "lower", "scenes", "mean rotation error of the motion over one second"),
    "rel_trans_m": Metric("m", "lower", "scenes", "mean translation error of the motion over one second"),
    "rot_slope_deg_per_min": Metric("deg/min", "neither", "scenes", "least-squares slope of the rotation error"),
    "registered": Metric("share", "higher", "scenes", "sampled frames that the estimator could place"),
}

FRAMES = {
    "revisit_psnr_db": Metric("dB", "higher", "pairs", "PSNR of frames at revisited places, best five pairs"),
    "revisit_ssim": Metric("", "higher", "pairs", "SSIM of frames at revisited places, best five pairs"),
    "revisit_lpips": Metric("", "lower", "pairs", "LPIPS of frames at revisited places, best five pairs"),
    "revisit_warp_psnr_db": Metric("dB", "higher", "pairs", "PSNR after moving one frame onto the other by true depth"),
    "revisit_warp_gap_db": Metric(
        "dB", "higher", "pairs", "PSNR after moving one frame onto the other by true depth, less the exact render's own"
    ),
    "ref_psnr_db": Metric("dB", "higher", "scenes", "PSNR to the exact render, frame 0 left out"),
    "ref_ssim": Metric("", "higher", "scenes", "SSIM to the exact render, frame 0 left out"),
    "warp_psnr_db": Metric("dB", "higher", "scenes", "PSNR of a frame moved by true depth onto the one a second later"),
    "warp_gap_db": Metric(
        "dB", "higher", "scenes", "PSNR of a frame moved by true depth onto the one 1 s later, less the render's own"
    ),
    "flicker_tf": Metric("", "neither", "scenes", "VBench temporal flickering: 1 - mean change between frames / 255"),
    "drift_ref_psnr_db": Metric("dB", "lower", "scenes", "PSNR to the render, first 10 s minus last 10 s"),
    "drift_sharpness": Metric("", "lower", "scenes", "proxy sharpness ratio, first 10 s minus last 10 s"),
    "proxy.sharpness": Metric("", "neither", "scenes", "Laplacian variance over that of the render (or of frame 0)"),
    "proxy.contrast": Metric("", "neither", "scenes", "luma contrast over that of the render (or of frame 0)"),
    "proxy.saturation": Metric("", "neither", "scenes", "mean saturation over that of the render (or of frame 0)"),
    "proxy.blockiness": Metric("", "neither", "scenes", "8-pixel blocking over that of the render (or of frame 0)"),
}

OUTSIDE = {
    "vmaf": Metric("", "higher", "scenes", "VMAF to the exact render"),
    "subject_consistency": Metric("", "neither", "scenes", "VBench SC"),
    "background_consistency": Metric("", "neither", "scenes", "VBench BC"),
    "motion_smoothness": Metric("", "neither", "scenes", "VBench MS"),
    "dynamic_degree": Metric("", "neither", "scenes", "VBench DD"),
    "aesthetic_quality": Metric("", "higher", "scenes", "VBench AQ"),
    "imaging_quality": Metric("", "higher", "scenes", "VBench IQ"),
    "overall_consistency": Metric("", "higher", "scenes", "VBench OC"),
    "imaging_quality_first": Metric("", "higher", "scenes", "VBench IQ of the first 10 s"),
    "imaging_quality_last": Metric("", "higher", "scenes", "VBench IQ of the last 10 s"),
    "drift_imaging_quality": Metric("", "lower", "scenes", "VBench IQ, first 10 s minus last 10 s"),
    "temporal_flickering": Metric("", "neither", "scenes", "VBench TF"),
    "temporal_style": Metric("", "higher", "scenes", "VBench TS"),
    "vbench_quality": Metric("of 100", "higher", "scenes", "VBench quality score of seven dimensions, clip by clip"),
}


_TITLES = {
    "rot_err_deg": "Rotation error",
    "trans_err_m": "Position error",
    "cam_mc": "CamMC",
    "rel_rot_deg": "Rotation error over 1 s",
    "rel_trans_m": "Position error over 1 s",
    "rot_slope_deg_per_min": "Growth of the rotation error",
    "registered": "Frames placed",
    "revisit_psnr_db": "PSNR at revisits",
    "revisit_ssim": "SSIM at revisits",
    "revisit_lpips": "LPIPS at revisits",
    "revisit_warp_psnr_db": "PSNR at revisits, by depth",
    "revisit_warp_gap_db": "Geometry at revisits",
    "ref_psnr_db": "PSNR to the truth",
    "ref_ssim": "SSIM to the truth",
    "warp_psnr_db": "PSNR over 1 s, by depth",
    "warp_gap_db": "Geometry over 1 s",
    "flicker_tf": "Temporal flickering",
    "drift_ref_psnr_db": "Loss of PSNR over the clip",
    "drift_sharpness": "Loss of sharpness over the clip",
    "proxy.sharpness": "Sharpness, relative",
    "proxy.contrast": "Contrast, relative",
    "proxy.saturation": "Saturation, relative",
    "proxy.blockiness": "Blockiness, relative",
    "vmaf": "VMAF",
    "vbench_quality": "VBench overall",
    "imaging_quality": "Imaging quality",
    "imaging_quality_first": "Imaging quality, first 10 s",
    "imaging_quality_last": "Imaging quality, last 10 s",
    "drift_imaging_quality": "Loss of imaging quality",
}


def title_of(name: str) -> str:
    """A name for people; the name itself where there is none. Protocol and estimator are left out."""
    base = name.partition("@")[0]
    return _TITLES.get(base, base)


def metric_of(name: str) -> Metric:
    """Look a printed name up; pose names carry "@protocol/estimator"."""
    base = name.partition("@")[0]
    for table in (POSE, FRAMES, OUTSIDE):
        if base in table:
            return table[base]
    raise ValueError(f"unknown metric {name!r}; allowed: {', '.join((*POSE, *FRAMES, *OUTSIDE))}")

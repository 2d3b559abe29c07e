"""Look at a camera path before a model spends minutes on it; every finding says its numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from camera_control.geometry import fov_deg, require_rotations
from camera_control.trajectory import Trajectory


@dataclass(frozen=True)
class Limits:
    """What a path may do. Steps are in world units per frame, turns in degrees per frame.

    `min_frames` is one latent frame beyond the first picture. A step counts as a jump when it is `jump` times the
    median of the steps that move.
    """

    fov_min_deg: float = 25.0
    fov_max_deg: float = 120.0
    rotation_tolerance: float = 1e-3
    max_step: float = 0.5
    max_turn_deg: float = 10.0
    jump: float = 8.0
    min_frames: int = 9
    stride: int = 8


@dataclass(frozen=True)
class Finding:
    """One line about a path: an error stops a run, a warning does not, ok is for the record."""

    level: Literal["ok", "warning", "error"]
    name: str
    message: str


def check_trajectory(
    trajectory: Trajectory, *, image_size: tuple[int, int] | None = None, limits: Limits | None = None
) -> list[Finding]:
    """Check rotations, frame count, field of view, steps and turns; one finding each, numbers included.

    `image_size` (height, width) stands in when the trajectory does not know its own.
    """
    limits = limits or Limits()
    return [
        _rotations(trajectory, limits),
        _frames(trajectory, limits),
        _field_of_view(trajectory, trajectory.image_size or image_size, limits),
        _steps(trajectory, limits),
        _turns(trajectory, limits),
    ]


def require_runnable(
    trajectory: Trajectory, *, image_size: tuple[int, int] | None = None, limits: Limits | None = None
) -> list[Finding]:
    """Return the warnings of a path that a model can run; raise ValueError with the first error otherwise."""
    findings = check_trajectory(trajectory, image_size=image_size, limits=limits)
    for finding in findings:
        if finding.level == "error":
            raise ValueError(finding.message)
    return [finding for finding in findings if finding.level == "warning"]


def _rotations(trajectory: Trajectory, limits: Limits) -> Finding:
    try:
        require_rotations(trajectory.c2w, limits.rotation_tolerance)
    except ValueError as error:
        return Finding("error", "rotations", str(error))
    rotation = trajectory.c2w[:, :3, :3]
    worst = np.abs(np.swapaxes(rotation, -1, -2) @ rotation - np.eye(3)).max()
    return Finding("ok", "rotations", f"orthonormal and right-handed, |R^T R - I| up to {worst:.1e}")


def _frames(trajectory: Trajectory, limits: Limits) -> Finding:
    count = len(trajectory)
    if count < limits.min_frames:
        return Finding(
            "error", "frames", f"path has {count} frames; allowed: at least {limits.min_frames}; example: 'w-80' has 81"
        )
    rest = (count - 1) % limits.stride
    seconds = f"{count} frames, {(count - 1) / trajectory.fps:.2f} s at {trajectory.fps:g} fps"
    if rest:
        low = count - rest
        return Finding(
            "warning", "frames", f"{seconds}; not 8k+1, a run will use {low} or {low + limits.stride} frames"
        )
    return Finding("ok", "frames", f"{seconds}, {(count - 1) // limits.stride + 1} latent frames")


def _field_of_view(trajectory: Trajectory, image_size: tuple[int, int] | None, limits: Limits) -> Finding:
    name = "field of view"
    if trajectory.intrinsics is None:
        return Finding("warning", name, "intrinsics are unknown, so the field of view was not checked")
    focal = trajectory.intrinsics[:, :2]
    if focal.min() <= 0:
        frame = int(focal.min(axis=1).argmin())
        return Finding(
            "error", name, f"focal length of frame {frame} is {focal[frame].min():g} px; allowed: > 0; example: 600"
        )
    if image_size is None:
        return Finding("warning", name, "the image size is unknown, so the field of view was not checked")
    angle = fov_deg(trajectory.intrinsics, image_size)
    low, high = angle.min(axis=0), angle.max(axis=0)
    numbers = f"{low[0]:.1f} to {high[0]:.1f} degrees across and {low[1]:.1f} to {high[1]:.1f} down"
    if low.min() < limits.fov_min_deg or high.max() > limits.fov_max_deg:
        return Finding(
            "error",
            name,
            f"field of view is {numbers} at {image_size[1]}x{image_size[0]} px; allowed: {limits.fov_min_deg:g} to "
            f"{limits.fov_max_deg:g}; example: fx = {image_size[1] / 1.4:.0f} for 70 degrees",
        )
    centre = trajectory.intrinsics[:, 2:]
    if centre.min() < 0 or (centre > np.array([image_size[1], image_size[0]])).any():
        return Finding("warning", name, f"{numbers}, but the principal point lies outside the picture")
    return Finding("ok", name, numbers)


def _steps(trajectory: Trajectory, limits: Limits) -> Finding:
    steps = trajectory.steps
    if not len(steps):
        return Finding("ok", "steps", "a single pose does not move")
    frame, longest = int(steps.argmax()) + 1, float(steps.max())
    moving = steps[steps > 1e-6]
    usual = float(np.median(moving)) if len(moving) else 0.0
    numbers = f"longest {longest:.4g} units at frame {frame}, median {usual:.4g}, path {steps.sum():.4g}"
    if longest > limits.max_step:
        return Finding("warning", "steps", f"{numbers}; above {limits.max_step:g} a frame, models see 0.05 to 0.1")
    if usual and longest > limits.jump * usual:
        return Finding("warning", "steps", f"{numbers}; a jump of {longest / usual:.0f} times the median")
    return Finding("ok", "steps", numbers)


def _turns(trajectory: Trajectory, limits: Limits) -> Finding:
    turns = trajectory.turns_deg
    if not len(turns):
        return Finding("ok", "turns", "a single pose does not turn")
    frame, fastest = int(turns.argmax()) + 1, float(turns.max())
    numbers = f"fastest {fastest:.3g} degrees at frame {frame}, {fastest * trajectory.fps:.3g} a second"
    if fastest > limits.max_turn_deg:
        return Finding("warning", "turns", f"{numbers}; above {limits.max_turn_deg:g} a frame, models see 1 to 2")
    return Finding("ok", "turns", numbers)

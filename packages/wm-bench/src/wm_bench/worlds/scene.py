"""A scene: analytic primitives with materials, light, caption, start pose and the queries a path planner needs."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from torch import Tensor

from wm_bench.worlds import geometry

Colour = tuple[float, float, float]


def linear(colour: Colour) -> Colour:
    """Linear light of a display colour with components in [0, 1]."""
    r, g, b = (max(c, 0.0) ** 2.2 for c in colour)
    return (r, g, b)


@dataclasses.dataclass(frozen=True)
class Material:
    """A surface: pattern id, two display colours, pattern size in metres, two pattern parameters, emitted light."""

    pattern: int
    a: Colour
    b: Colour
    scale: float = 1.0
    extra: float = 1.0
    extra2: float = 0.0
    emit: float = 0.0

    def row(self) -> list[float]:
        """The material as the 11 numbers the renderer gathers per hit."""
        return [float(self.pattern), *linear(self.a), *linear(self.b), self.scale, self.extra, self.extra2, self.emit]


@dataclasses.dataclass(frozen=True)
class Light:
    """Sun direction (towards it), linear colours of sun, sky and ambient light, fog density per metre."""

    sun: tuple[float, float, float]
    sun_colour: Colour
    ambient_up: Colour
    ambient_down: Colour
    sky: tuple[float, ...]
    fog: float
    exposure: float = 1.0


@dataclasses.dataclass(frozen=True)
class Scene:
    """One procedural world, made by `make_scene`; geometry is metric, +Y points down and the ground is y = 0."""

    category: str
    seed: int
    caption: str
    boxes: Tensor
    ellipsoids: Tensor
    frusta: Tensor
    materials: Tensor
    light: Light
    start: np.ndarray
    room: tuple[float, ...] | None = None
    windows: Tensor | None = None
    scale: float = 1.0

    @property
    def primitive_count(self) -> int:
        """Number of bounded primitives (the ground and the room are not counted)."""
        return len(self.boxes) + len(self.ellipsoids) + len(self.frusta)

    def start_pose(self) -> np.ndarray:
        """A good first view: camera-to-world (4, 4) float32, OpenCV axes, eye height about 1.6 m, free space ahead."""
        return self.start.copy()

    def default_intrinsics(self, size: tuple[int, int], fov_deg: float = 70.0) -> np.ndarray:
        """Pixel intrinsics (4,) fx, fy, cx, cy of a centred pinhole with this horizontal field of view; size
        is (H, W)."""
        height, width = size
        focal = 0.5 * width / math.tan(math.radians(fov_deg) / 2)
        return np.array([focal, focal, width / 2, height / 2], np.float32)

    def distance(self, points: np.ndarray | Tensor) -> np.ndarray:
        """Signed distance in metres (m,) from points (m, 3) to the nearest surface, negative inside a solid.

        The ground counts, and so do the walls of a room (seen from inside). Boxes, spheres and cylinders are
        exact; squashed
        ellipsoids and cones are first order.
        """
        p = torch.as_tensor(np.asarray(points), dtype=torch.float32)
        if p.ndim != 2 or p.shape[1] != 3:
            raise ValueError(f"points has shape {tuple(p.shape)}; allowed is (m, 3), e.g. (100, 3)")
        parts = [-p[:, 1]]
        if len(self.boxes):
            parts.append(geometry.box_distance(self.boxes, p).amin(0))
        if len(self.ellipsoids):
            parts.append(geometry.ellipsoid_distance(self.ellipsoids, p).amin(0))
        if len(self.frusta):
            parts.append(geometry.frustum_distance(self.frusta, p).amin(0))
        if self.room is not None:
            cx, cy, cz, hx, hy, hz = self.room
            centre, half = torch.tensor([cx, cy, cz]), torch.tensor([hx, hy, hz])
            parts.append((half - (p - centre).abs()).amin(1))
        return torch.stack(parts).amin(0).numpy()

    def point_cloud(self, count: int, seed: int = 0) -> np.ndarray:
        """Random points (count, 3) float32 on the scene's surfaces in metres: objects, ground (within 12 m)
        and room walls."""
        if count < 1:
            raise ValueError(f"count is {count}; allowed are integers >= 1, e.g. 2000")
        rng = np.random.default_rng([self.seed, seed, 104729])
        share = count // 4
        parts = []
        ground = rng.uniform(-12, 12, (count, 3)) + (0.0, 0.0, 8.0)
        if self.room is not None:
            centre, half = np.array(self.room[:3]), np.array(self.room[3:])
            ground = rng.uniform(-1, 1, (count, 3))
            axis = rng.integers(0, 3, count)
            ground[np.arange(count), axis] = np.sign(ground[np.arange(count), axis])
            ground = centre + ground * half
        else:
            ground[:, 1] = 0.0
        if len(self.boxes):
            parts.append(_box_points(self, rng, share))
        if len(self.ellipsoids):
            rows = self.ellipsoids.numpy()[rng.integers(0, len(self.ellipsoids), share)]
            direction = rng.normal(size=(share, 3))
            parts.append(rows[:, :3] + rows[:, 3:] * direction / np.linalg.norm(direction, axis=1, keepdims=True))
        if len(self.frusta):
            rows = self.frusta.numpy()[rng.integers(0, len(self.frusta), share)]
            angle, up = rng.uniform(0, 2 * math.pi, share), rng.uniform(0, 1, share)
            radius = rows[:, 3] + (rows[:, 4] - rows[:, 3]) * up
            offset = np.stack((radius * np.sin(angle), -up * rows[:, 5], radius * np.cos(angle)), 1)
            parts.append(rows[:, :3] + offset)
        parts.append(ground[: count - sum(len(p) for p in parts)])
        return np.concatenate(parts).astype(np.float32)


def _box_points(scene: Scene, rng: np.random.Generator, count: int) -> np.ndarray:
    """Points (count, 3) on the faces of the boxes, drawn in proportion to face area."""
    rows = scene.boxes.numpy().astype(np.float64)
    half = rows[:, 3:6]
    areas = np.stack((half[:, 1] * half[:, 2], half[:, 0] * half[:, 2], half[:, 0] * half[:, 1]), 1)
    pick = rng.choice(areas.size, count, p=areas.ravel() / areas.sum())
    row, axis = pick // 3, pick % 3
    local = rng.uniform(-1, 1, (count, 3))
    local[np.arange(count), axis] = rng.choice((-1.0, 1.0), count)
    local *= half[row]
    c, s = rows[row, 6], rows[row, 7]
    x, z = c * local[:, 0] + s * local[:, 2], c * local[:, 2] - s * local[:, 0]
    return rows[row, :3] + np.stack((x, local[:, 1], z), 1)


class Builder:
    """Collects primitives with their materials while a category lays out a scene."""

    def __init__(self) -> None:
        self._boxes: list[tuple[list[float], Material]] = []
        self._ellipsoids: list[tuple[list[float], Material]] = []
        self._frusta: list[tuple[list[float], Material]] = []

    def box(
        self,
        x: float,
        z: float,
        size: tuple[float, float, float],
        mat: Material,
        *,
        base: float = 0.0,
        yaw: float = 0.0,
    ) -> None:
        """A box standing `base` metres above the ground; size is (width x, height, depth z), yaw in degrees."""
        w, h, d = size
        c, s = math.cos(math.radians(yaw)), math.sin(math.radians(yaw))
        self._boxes.append(([x, -(base + h / 2), z, w / 2, h / 2, d / 2, c, s], dataclasses.replace(mat, extra2=h)))

    def ellipsoid(self, x: float, up: float, z: float, radii: tuple[float, float, float], mat: Material) -> None:
        """An ellipsoid whose centre is `up` metres above the ground."""
        self._ellipsoids.append(([x, -up, z, *radii], mat))

    def frustum(
        self, x: float, z: float, radii: tuple[float, float], height: float, mat: Material, *, base: float = 0.0
    ) -> None:
        """An upright cylinder or cone with (bottom, top) radii standing `base` metres above the ground."""
        self._frusta.append(([x, -base, z, radii[0], radii[1], height], mat))

    def scene(
        self,
        category: str,
        seed: int,
        caption: str,
        ground: Material,
        light: Light,
        start: np.ndarray,
        *,
        room: tuple[float, ...] | None = None,
        room_materials: tuple[Material, Material, Material] | None = None,
        windows: list[tuple[float, ...]] | None = None,
    ) -> Scene:
        """The finished scene; rows of `materials` are boxes, ellipsoids, frusta, ground, floor, ceiling, walls."""

        def table(items: list[tuple[list[float], Material]], width: int) -> Tensor:
            return torch.tensor([i[0] for i in items], dtype=torch.float32).reshape(-1, width)

        extra = room_materials or (ground, ground, ground)
        rows = [m.row() for _, m in (*self._boxes, *self._ellipsoids, *self._frusta)]
        rows += [m.row() for m in (ground, *extra)]
        return Scene(
            category,
            seed,
            caption,
            table(self._boxes, 8),
            table(self._ellipsoids, 6),
            table(self._frusta, 6),
            torch.tensor(rows, dtype=torch.float32),
            light,
            start.astype(np.float32),
            room,
            torch.tensor(windows, dtype=torch.float32) if windows else None,
        )


def look(x: float, up: float, z: float, yaw_deg: float, pitch_deg: float = 0.0) -> np.ndarray:
    """Camera-to-world (4, 4) at a height above the ground; yaw 0 looks along +Z, positive yaw turns right, pitch up."""
    y, p = math.radians(yaw_deg), math.radians(pitch_deg)
    yaw = np.array([[math.cos(y), 0, math.sin(y)], [0, 1, 0], [-math.sin(y), 0, math.cos(y)]])
    pitch = np.array([[1, 0, 0], [0, math.cos(p), -math.sin(p)], [0, math.sin(p), math.cos(p)]])
    pose = np.eye(4)
    pose[:3, :3] = yaw @ pitch
    pose[:3, 3] = (x, -up, z)
    return pose


_LIGHTS = {
    "noon": ((1.0, 0.96, 0.88), (0.18, 0.42, 0.86), (0.66, 0.82, 0.95), "bright midday sun"),
    "morning": ((1.0, 0.86, 0.66), (0.28, 0.50, 0.86), (0.95, 0.86, 0.76), "soft morning light"),
    "evening": ((1.0, 0.70, 0.42), (0.34, 0.42, 0.72), (0.98, 0.74, 0.54), "warm evening light"),
}


def daylight(
    rng: np.random.Generator, *, fog: float, kinds: tuple[str, ...] = ("noon", "noon", "morning", "evening")
) -> tuple[Light, str]:
    """A random sun, sky and ambient light, with the words a caption uses for them."""
    kind = str(rng.choice(kinds))
    sun_display, zenith, horizon, words = _LIGHTS[kind]
    elevation = math.radians({"noon": 52, "morning": 34, "evening": 30}[kind] + rng.uniform(-5, 5))
    azimuth = math.radians(rng.choice([-1, 1]) * rng.uniform(35, 140))
    sun = (math.cos(elevation) * math.sin(azimuth), -math.sin(elevation), math.cos(elevation) * math.cos(azimuth))
    strength = {"noon": 2.1, "morning": 2.4, "evening": 2.9}[kind]
    clouds = float(rng.choice([0.30, 0.45, 0.55]))
    sun_linear = linear(sun_display)
    sky = (*linear(zenith), *linear(horizon), *sun_linear, *linear((1.0, 0.97, 0.94)), clouds)
    fill = {"noon": 1.1, "morning": 1.15, "evening": 1.45}[kind]
    up = tuple(fill * (0.34 * z + 0.36 * h) for z, h in zip(linear(zenith), linear(horizon), strict=True))
    down = tuple(fill * (0.20 * s + 0.07) for s in sun_linear)
    cloud_words = {0.30: "a clear sky", 0.45: "a few soft clouds", 0.55: "scattered white clouds"}[clouds]
    light = Light(sun, tuple(strength * s for s in sun_linear), up, down, sky, fog)  # type: ignore[arg-type]
    return light, f"{words} and {cloud_words}"

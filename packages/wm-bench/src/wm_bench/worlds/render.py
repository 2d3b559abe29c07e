"""The ray caster: colour and metric depth of a scene for a list of exact poses.

Pixel (i, j) covers rows [i, i + 1) and columns [j, j + 1); its ray goes through (j + 0.5, i + 0.5). One ray a
pixel finds the
picture; only pixels on edges are traced three more times. Pixels are visited tile by tile, see `world`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from wm_bench.worlds.geometry import Rays
from wm_bench.worlds.scene import Scene
from wm_bench.worlds.shading import shade
from wm_bench.worlds.world import World, in_view, nearest

_EDGE = 0.05
_OFFSETS = ((-0.34, -0.18), (0.34, -0.18), (0.0, 0.36))
_TILE = (32, 40)
# Rays shaded together; three colour planes of this many rays stay below torch's threshold for starting threads
# per operator.
_SHADE = 7680


Tracer = Callable[[World, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


class Render(NamedTuple):
    """Colour uint8 (f, H, W, 3) and metric z-depth float32 (f, H, W), infinite where the sky is seen."""

    rgb: np.ndarray
    depth: np.ndarray


def _display(linear: Tensor, exposure: Tensor) -> Tensor:
    """Display values in [0, 1]: a soft shoulder keeps bright walls and sky from clipping."""
    x = linear * exposure
    x = torch.where(x < 0.6, x, 0.6 + 0.4 * (1 - torch.exp(-(x - 0.6) / 0.4)))
    return x.clamp(0, 1) ** (1 / 2.2)


def _edges(picture: Tensor) -> Tensor:
    """Mask (H, W) of pixels that differ from a neighbour in colour."""
    mask = torch.zeros(picture.shape[1:], dtype=torch.bool, device=picture.device)
    down = (picture[:, 1:] - picture[:, :-1]).abs().amax(0) > _EDGE
    right = (picture[:, :, 1:] - picture[:, :, :-1]).abs().amax(0) > _EDGE
    mask[1:] |= down
    mask[:-1] |= down
    mask[:, 1:] |= right
    mask[:, :-1] |= right
    return mask


@functools.lru_cache(maxsize=8)
def _tile_order(height: int, width: int, device: str) -> Tensor:
    """Flat pixel indices in tile-by-tile order."""
    i, j = np.divmod(np.arange(height * width), width)
    order = np.lexsort((j, i, j // _TILE[1], i // _TILE[0]))
    return torch.from_numpy(order).to(device)


def _rays(pose: Tensor, x: Tensor, y: Tensor) -> Rays:
    """World rays through image-plane points (x, y, 1); distances along them are z-depths."""
    r, o = pose[:3, :3], pose[:3, 3]
    return Rays(o[0], o[1], o[2], *(r[i, 0] * x + r[i, 1] * y + r[i, 2] for i in range(3)))


def _nearest_by_tile(world: World, pose: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    chunk = min(_TILE[0] * _TILE[1], len(x))
    rest = -len(x) % chunk
    cx, cy = (torch.cat((v, v[-1:].expand(rest))).reshape(-1, chunk) for v in (x, y))
    keep = in_view(world, pose, cx, cy)
    found = [nearest(world, _rays(pose, cx[i], cy[i]), keep[i]) for i in range(len(cx))]
    t = torch.cat([f[0] for f in found])[: len(x)]
    which = torch.cat([f[1] for f in found])[: len(x)]
    return t, which


def _trace(world: World, pose: Tensor, x: Tensor, y: Tensor, pixel: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Display colour (3, r), z-depth (r,) and primitive (r,) of rays through neighbouring image-plane points (r,)."""
    if world.compiled:
        t, which = nearest(world, _rays(pose, x, y), None)
    else:
        t, which = _nearest_by_tile(world, pose, x, y)
    block = _SHADE if torch.get_num_threads() > 1 else len(x)
    colours = []
    for first in range(0, len(x), block):
        part = slice(first, first + block)
        linear = shade(world, _rays(pose, x[part], y[part]), t[part], which[part], pixel, _TILE[0] * _TILE[1])
        colours.append(_display(linear, world.exposure))
    return torch.cat(colours, 1), t, which


def _trace_dense(world: World, pose: Tensor, x: Tensor, y: Tensor, pixel: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same as `_trace` without culling and gathering: for a GPU."""
    rays = _rays(pose, x, y)
    t, which = nearest(world, rays, None)
    return _display(shade(world, rays, t, which, pixel, None), world.exposure), t, which


def _frame(
    world: World, pose: Tensor, k: tuple[float, ...], size: tuple[int, int], trace: Tracer
) -> tuple[np.ndarray, np.ndarray]:
    """One anti-aliased frame: rgb uint8 (H, W, 3) and depth float32 (H, W)."""
    height, width = size
    fx, fy, cx, cy = k
    order = _tile_order(height, width, str(world.device))
    x = ((order % width).float() + 0.5 - cx) / fx
    y = (torch.div(order, width, rounding_mode="floor").float() + 0.5 - cy) / fy
    pixel = torch.tensor(1.0 / math.sqrt(fx * fy), device=world.device)
    colour, t, which = trace(world, pose, x, y, pixel)
    flat = torch.empty_like(colour)
    flat[:, order] = colour
    mask = _edges(flat.reshape(3, height, width)).reshape(-1)[order]
    edge = mask.nonzero()[:, 0]
    if len(edge):
        # The three samples of one pixel stay side by side so that chunks cover small parts of the picture.
        shift = torch.tensor(_OFFSETS, device=world.device)
        ex = (x[edge, None] + shift[:, 0] / fx).reshape(-1)
        ey = (y[edge, None] + shift[:, 1] / fy).reshape(-1)
        extra, _, _ = trace(world, pose, ex, ey, pixel)
        colour[:, edge] = 0.25 * colour[:, edge] + 0.25 * extra.reshape(3, -1, len(_OFFSETS)).sum(2)
        flat[:, order] = colour
    depth = torch.empty_like(t)
    depth[order] = torch.where(which < 0, math.inf, t)
    rgb = (flat * 255 + 0.5).to(torch.uint8).T.reshape(height, width, 3)
    return rgb.cpu().numpy(), depth.reshape(height, width).cpu().numpy()


def _check(c2w: np.ndarray, intrinsics: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    c2w = np.asarray(c2w, np.float32)
    if c2w.ndim != 3 or c2w.shape[1:] != (4, 4) or not len(c2w):
        raise ValueError(f"c2w has shape {c2w.shape}; allowed is (f, 4, 4) with f >= 1, e.g. (65, 4, 4)")
    if not np.isfinite(c2w).all():
        raise ValueError(
            "c2w holds NaN or infinite numbers; allowed are finite camera-to-world matrices, e.g. np.eye(4)[None]"
        )
    k = np.asarray(intrinsics, np.float32)
    k = np.broadcast_to(k, (len(c2w), 4)) if k.shape == (4,) else k
    if k.shape != (len(c2w), 4) or not (k[:, :2] > 0).all():
        raise ValueError(
            f"intrinsics {k.shape} must be (4,) or ({len(c2w)}, 4) fx fy cx cy with fx, fy > 0, e.g. (114, 114, 80, 48)"
        )
    if len(size) != 2 or min(size) < 8:
        raise ValueError(f"size is {size}; allowed is (H, W) with both >= 8, e.g. (96, 160)")
    return c2w, k


def render(
    scene: Scene,
    c2w: np.ndarray,
    intrinsics: np.ndarray,
    size: tuple[int, int],
    device: str | torch.device = "cpu",
    workers: int | None = None,
    compile: bool = False,
) -> Render:
    """Draw a scene from exact poses: colour and metric depth for every frame.

    c2w (f, 4, 4) OpenCV camera-to-world in metres, intrinsics (4,) or (f, 4) fx, fy, cx, cy in pixels, size
    (H, W). `workers`
    threads draw frames side by side (default: torch's thread count, one on a GPU). `compile` fuses the loops
    over primitives with torch.compile: about half a minute
    once, needs a C++ compiler; colours may differ by rounding. Raises ValueError on wrong shapes or
    non-finite poses.
    """
    c2w, k = _check(c2w, intrinsics, size)
    where = torch.device(device)
    world = World(scene, where, compile and where.type == "cpu")
    trace = _trace if where.type == "cpu" else _trace_dense
    rgb = np.empty((len(c2w), *size, 3), np.uint8)
    depth = np.empty((len(c2w), *size), np.float32)

    @torch.no_grad()
    def draw(f: int) -> None:
        pose = torch.from_numpy(np.ascontiguousarray(c2w[f])).to(where)
        rgb[f], depth[f] = _frame(world, pose, tuple(float(v) for v in k[f]), size, trace)

    workers = workers or (1 if compile or where.type != "cpu" else torch.get_num_threads())
    if min(workers, len(c2w)) == 1:
        for f in range(len(c2w)):
            draw(f)
    else:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(draw, range(len(c2w))))
    return Render(rgb, depth)

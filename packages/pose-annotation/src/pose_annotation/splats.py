"""Gaussian splats and point clouds from .ply files, as scenes for new camera paths (`augmentation.py`).

The layout is the one that 3D Gaussian splatting trains to: a vertex a splat, with log scales, opacity before the
sigmoid, a quaternion (w, x, y, z) and spherical harmonics, channel after channel. Own small reader: the header is text,
the rest one table of numbers. What is solid serves the coverage tests; `backends/gsplat_renderer.py` draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pose_annotation.types import Array

SOLID = 0.1  # opacity from which a splat counts as something to see
_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": "="}
_LONGEST_HEADER = 512


@dataclass(frozen=True, eq=False)
class Splats:
    """Gaussians in the world.

    Args:
        means: (p, 3) centres.
        scales: (p, 3) standard deviations along their axes, > 0.
        quaternions: (p, 4) unit, w x y z, local to world.
        opacity: (p,) in (0, 1).
        harmonics: (p, k, 3) coefficients of colour, k = (degree + 1) ** 2.
    """

    means: Array
    scales: Array
    quaternions: Array
    opacity: Array
    harmonics: Array

    def __len__(self) -> int:
        return len(self.means)

    @property
    def degree(self) -> int:
        """Degree of the spherical harmonics."""
        return round(self.harmonics.shape[1] ** 0.5) - 1

    def solid(self, least_opacity: float = SOLID) -> Array:
        """(n, 3) centres of the splats that can be seen: what `augmentation.coverage` counts."""
        return self.means[self.opacity >= least_opacity]

    @staticmethod
    def load(path: str | Path) -> Splats:
        """Read a .ply of splats; those with a number that is not finite are left out.

        Raises ValueError, in one line, for a file that is none, lacks a property, or ends early.
        """
        table = read_ply(path)
        means = _columns(table, path, ["x", "y", "z"])
        scales = _columns(table, path, [f"scale_{i}" for i in range(3)])
        turn = _columns(table, path, [f"rot_{i}" for i in range(4)])
        opacity = _columns(table, path, ["opacity"])[:, 0]
        base = _columns(table, path, [f"f_dc_{i}" for i in range(3)])
        rest = [name for name in table.dtype.names or () if name.startswith("f_rest_")]
        count = len(rest) // 3
        if len(rest) % 3 or (count + 1) not in (1, 4, 9, 16, 25):
            raise ValueError(f"{path} has {len(rest)} f_rest properties; allowed: 0, 9, 24, 45 or 72")
        higher = _columns(table, path, [f"f_rest_{i}" for i in range(len(rest))]).reshape(len(table), 3, count)
        harmonics = np.concatenate([base[:, None], np.swapaxes(higher, 1, 2)], 1)
        size = np.linalg.norm(turn, axis=1)
        whole = np.isfinite(np.concatenate([means, scales, turn, opacity[:, None], base], 1)).all(1)
        whole &= np.isfinite(harmonics).all((1, 2)) & (size > 1e-12)
        if not whole.any():
            raise ValueError(f"{path} holds no splat of finite numbers; allowed: at least one")
        return Splats(
            means[whole], np.exp(scales[whole]), turn[whole] / size[whole, None],
            1.0 / (1.0 + np.exp(-np.clip(opacity[whole], -60, 60))), harmonics[whole],
        )  # fmt: skip


def read_points(path: str | Path) -> Array:
    """(p, 3) points of a .ply: the solid splats if it holds splats, else its vertices. Raises ValueError."""
    table = read_ply(path)
    if {"opacity", "scale_0"} <= set(table.dtype.names or ()):
        return Splats.load(path).solid()
    points = _columns(table, path, ["x", "y", "z"])
    return points[np.isfinite(points).all(1)]


def _columns(table: NDArray[Any], path: str | Path, names: list[str]) -> Array:
    missing = [name for name in names if name not in (table.dtype.names or ())]
    if missing:
        raise ValueError(f"{path} has no property {missing[0]}; allowed: the layout of 3D Gaussian splatting")
    if not names:
        return np.zeros((len(table), 0))
    return np.stack([table[name].astype(np.float64) for name in names], 1)


def read_ply(path: str | Path) -> NDArray[Any]:
    """The vertices of a .ply as a structured array, a field a property. Raises ValueError, in one line."""
    try:
        with Path(path).open("rb") as stream:
            order, count, fields = _header(stream, path)
            if order == "=":
                return _text_rows(stream, path, count, fields)
            dtype = np.dtype([(name, order + kind) for name, kind in fields])
            data = stream.read(count * dtype.itemsize)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}; allowed: a .ply file") from None
    if len(data) < count * dtype.itemsize:
        raise ValueError(f"{path} ends after {len(data) // dtype.itemsize} of {count} vertices; allowed: a whole file")
    return np.frombuffer(data, dtype, count)


def _header(stream: BinaryIO, path: str | Path) -> tuple[str, int, list[tuple[str, str]]]:
    if stream.readline(16).strip() != b"ply":
        raise ValueError(f"{path} is no .ply; allowed: a file that begins with the line 'ply'")
    order, count, fields, inside = "", -1, list[tuple[str, str]](), False
    for _ in range(_LONGEST_HEADER):
        words = stream.readline(1024).decode("ascii", "replace").split()
        if words == ["end_header"]:
            if not order or count < 0 or not fields:
                break
            return order, count, fields
        if not words or words[0] in ("comment", "obj_info"):
            continue
        if words[0] == "format" and len(words) > 1:
            order = _ORDERS.get(words[1], "")
        elif words[0] == "element" and len(words) == 3:
            if count < 0 and words[1] != "vertex":
                raise ValueError(f"{path} begins with element {words[1]!r}; allowed: vertex first")
            inside = words[1] == "vertex"
            if inside and words[2].isdigit():
                count = int(words[2])
        elif words[0] == "property" and inside:
            if len(words) != 3 or words[1] not in _TYPES or words[2] in dict(fields):
                raise ValueError(f"{path} has a property {' '.join(words[1:])!r}; allowed: plain numbers, each once")
            fields.append((words[2], _TYPES[words[1]]))
    raise ValueError(f"{path} has no whole .ply header; allowed: format, element vertex, properties, end_header")


def _text_rows(stream: BinaryIO, path: str | Path, count: int, fields: list[tuple[str, str]]) -> NDArray[Any]:
    rows = []
    for number in range(count):
        words = stream.readline().split()
        try:
            rows.append(tuple(float(word) for word in words))
        except ValueError:
            raise ValueError(f"{path} vertex {number} is not made of numbers; allowed: numbers with spaces") from None
        if len(words) != len(fields):
            raise ValueError(
                f"{path} vertex {number} has {len(words)} numbers; allowed: {len(fields)}, a property each"
            )
    return np.array(rows, np.dtype([(name, "f8") for name, _ in fields]))

"""Gaussian splats as scenes: read from .ply, tested for coverage, drawn through gsplat's public interface (a fake)."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from camera_control.trajectory import Trajectory
from pose_annotation.augmentation import coverage, covered_paths
from pose_annotation.backends import Missing
from pose_annotation.backends.gsplat_renderer import near_blank_share, render_splats
from pose_annotation.splats import Splats, read_ply, read_points

sys.path.insert(0, str(Path(__file__).parent))
from textured_room import render

SH0 = 0.28209479177387814


def write_ply(path, columns, form="binary_little_endian", kind="float", tail=""):
    """Columns {name: (p,)} as the vertices of a .ply."""
    count = len(next(iter(columns.values())))
    head = ["ply", f"format {form} 1.0", "comment made by a test", f"element vertex {count}"]
    head += [f"property {kind} {name}" for name in columns]
    table = np.stack(list(columns.values()), 1)
    if form == "ascii":
        body = "\n".join(" ".join(f"{v:.9g}" for v in row) for row in table).encode()
    else:
        order = "<" if form == "binary_little_endian" else ">"
        body = table.astype(order + ("f4" if kind == "float" else "f8")).tobytes()
    path.write_bytes(("\n".join([*head, *filter(None, [tail]), "end_header"]) + "\n").encode() + body)
    return path


def columns_of(means, colour=0.5, opacity=0.9, degree=0, seed=0):
    """A vertex a splat, as training writes them."""
    rng, count = np.random.default_rng(seed), len(means)
    out = {name: means[:, i] for i, name in enumerate("xyz")} | {f"n{axis}": np.zeros(count) for axis in "xyz"}
    colours = np.broadcast_to(colour, (count, 3))
    out |= {f"f_dc_{i}": (colours[:, i] - 0.5) / SH0 for i in range(3)}
    out |= {f"f_rest_{i}": rng.normal(0, 0.1, count) for i in range(3 * ((degree + 1) ** 2 - 1))}
    alpha = np.broadcast_to(opacity, count)
    out |= {"opacity": np.log(alpha / (1 - alpha))}
    out |= {f"scale_{i}": np.log(np.full(count, 0.01 * (i + 1))) for i in range(3)}
    return out | {f"rot_{i}": rng.normal(0, 1, count) for i in range(4)}


@pytest.mark.parametrize("form", ["binary_little_endian", "binary_big_endian", "ascii"])
@pytest.mark.parametrize("degree", [0, 3])
def test_splats_are_read_as_they_were_written(tmp_path, form, degree):
    means = np.random.default_rng(1).uniform(-3, 3, (20, 3))
    columns = columns_of(means, np.array([0.2, 0.5, 0.8]), np.linspace(0.02, 0.97, 20), degree)
    splats = Splats.load(write_ply(tmp_path / "s.ply", columns, form, tail="element face 0\nproperty list uchar int v"))
    assert len(splats) == 20 and splats.degree == degree and splats.harmonics.shape == (20, (degree + 1) ** 2, 3)
    assert np.allclose(splats.means, means, atol=1e-6)
    assert np.allclose(splats.opacity, np.linspace(0.02, 0.97, 20), atol=1e-6)
    assert np.allclose(splats.scales, [[0.01, 0.02, 0.03]] * 20, rtol=1e-5)
    turn = np.stack([columns[f"rot_{i}"] for i in range(4)], 1)
    assert np.allclose(splats.quaternions, turn / np.linalg.norm(turn, axis=1, keepdims=True), atol=1e-6)
    assert np.allclose(0.5 + SH0 * splats.harmonics[:, 0], [0.2, 0.5, 0.8], atol=1e-6)
    if degree == 3:  # channel after channel in the file: 15 of red, 15 of green, 15 of blue
        assert np.allclose(splats.harmonics[:, 1, 1], columns["f_rest_15"], atol=1e-6)
        assert np.allclose(splats.harmonics[:, 15, 2], columns["f_rest_44"], atol=1e-6)
    assert len(splats.solid()) == (np.linspace(0.02, 0.97, 20) >= 0.1).sum()


def test_broken_splats_are_left_out_and_a_plain_cloud_is_points(tmp_path):
    columns = columns_of(np.random.default_rng(1).uniform(-3, 3, (6, 3)))
    columns["x"] = columns["x"].copy()
    columns["x"][2] = np.nan
    columns["scale_1"][4] = np.inf
    for i in range(4):
        columns[f"rot_{i}"][5] = 0.0
    file = write_ply(tmp_path / "s.ply", columns)
    assert len(Splats.load(file)) == 3 and len(read_points(file)) == 3
    cloud = {name: columns[name] for name in "xyz"}
    assert read_points(write_ply(tmp_path / "c.ply", cloud, kind="double")).shape == (5, 3)


def test_files_that_are_no_splats_are_one_line(tmp_path):
    file, columns = tmp_path / "s.ply", columns_of(np.ones((4, 3)))
    whole = write_ply(file, columns).read_bytes()
    without = {name: v for name, v in columns.items() if name != "rot_2"}
    cases = [
        (b"", "is no .ply"),
        (b"solid stl\n" * 9, "is no .ply"),
        (whole[:-9], "ends after 3 of 4 vertices"),
        (whole[:60], "no whole .ply header"),
        (whole.replace(b"binary_little_endian", b"binary_middle"), "no whole .ply header"),
        (whole.replace(b"float nx", b"quad nx"), "property 'quad nx'; allowed: plain numbers"),
        (whole.replace(b"property float nx", b"property list uchar int nx"), "property 'list uchar int nx'"),
        (whole.replace(b"float ny", b"float nx"), "each once"),
        (whole.replace(b"element vertex", b"element face"), "begins with element 'face'"),
        (write_ply(file, without).read_bytes(), "has no property rot_2"),
        (write_ply(file, columns | {"f_rest_0": np.zeros(4)}).read_bytes(), "has 1 f_rest properties"),
        (write_ply(file, columns | {"x": np.full(4, np.nan)}).read_bytes(), "no splat of finite numbers"),
        (write_ply(file, columns, "ascii").read_bytes()[:-20], "numbers"),
        (write_ply(file, columns, "ascii").read_bytes().replace(b"-", b"?"), "is not made of numbers"),
    ]
    for data, message in cases:
        file.write_bytes(data)
        with pytest.raises(ValueError, match=r"s\.ply") as caught:
            Splats.load(file)
        assert message in str(caught.value) and "\n" not in str(caught.value), (message, str(caught.value))
    with pytest.raises(ValueError, match="cannot read"):
        read_ply(tmp_path / "gone.ply")


def room(tmp_path):
    """A walk through the textured room, and its depth as a .ply of splats in the colours of its pictures."""
    clip = render("fly", 10, (60, 100), samples=1)
    file = write_ply(tmp_path / "room.ply", columns_of(clip.points(), clip.frames.reshape(-1, 3) / 255))
    return clip, Splats.load(file), Trajectory(clip.c2w, clip.intrinsics, 16.0, (60, 100))


def rasterization(means, quats, scales, opacities, colors, viewmats, Ks, width, height, sh_degree=None, **other):
    """gsplat's public function with its checks of shapes, drawing the centre of each splat only, nearest last."""
    count, cameras = means.shape[0], viewmats.shape[0]
    assert not other and means.shape == (count, 3) and quats.shape == (count, 4) and scales.shape == (count, 3)
    assert opacities.shape == (count,) and viewmats.shape == (cameras, 4, 4) and Ks.shape == (cameras, 3, 3)
    assert colors.shape[0] == count and colors.shape[2] == 3 and (sh_degree + 1) ** 2 <= colors.shape[1]
    assert all(t.dtype == torch.float32 for t in (means, quats, scales, opacities, colors, viewmats, Ks))
    pictures, alphas = torch.zeros(cameras, height, width, 3), torch.zeros(cameras, height, width, 1)
    colour = 0.5 + SH0 * colors[:, 0]
    for i in range(cameras):
        y = means @ viewmats[i, :3, :3].T + viewmats[i, :3, 3]
        order = torch.argsort(y[:, 2], descending=True)
        order = order[y[order, 2] > 0.01]
        uv = (y[order] @ Ks[i].T)[:, :2] / y[order, 2:]
        at = torch.floor(uv).long()
        inside = (at >= 0).all(1) & (at[:, 0] < width) & (at[:, 1] < height)
        for row, column, value in zip(at[inside, 1], at[inside, 0], colour[order][inside], strict=True):
            pictures[i, row, column], alphas[i, row, column] = value, 1.0
    return pictures, alphas, {}


def test_a_room_of_splats_is_covered_and_drawn_from_its_own_cameras(tmp_path, monkeypatch):
    clip, splats, shot = room(tmp_path)
    assert coverage(splats.solid(), shot, every=1).passed
    assert len(covered_paths(shot, splats.solid(), 65)) >= 20
    monkeypatch.setitem(sys.modules, "gsplat", SimpleNamespace(rasterization=rasterization))
    parts = list(render_splats(splats, shot[:3], device="cpu", batch=2))
    assert [len(pictures) for pictures, _ in parts] == [2, 1]
    pictures, covered = np.concatenate([p for p, _ in parts]), np.concatenate([c for _, c in parts])
    assert pictures.dtype == np.uint8 and pictures.shape == (3, 60, 100, 3)
    assert covered.min() > 0.95 and near_blank_share(covered) == 0.0
    # The splats of one picture, seen by its own camera, are that picture.
    for i in (0, 4):
        own = slice(6000 * i, 6000 * (i + 1))
        parts = (splats.means, splats.scales, splats.quaternions, splats.opacity, splats.harmonics)
        picture, _ = next(render_splats(Splats(*(part[own] for part in parts)), shot[i : i + 1], device="cpu"))
        assert (np.abs(picture[0].astype(int) - clip.frames[i]) <= 1).all(-1).mean() > 0.99
    behind = Trajectory(clip.c2w @ np.diag([-1.0, 1, -1, 1]), clip.intrinsics, 16.0, (60, 100))
    _, empty = next(render_splats(splats, behind[:2], device="cpu"))
    assert near_blank_share(empty) == 1.0


def test_faint_splats_cover_nothing(tmp_path):
    _, splats, shot = room(tmp_path)
    faint = Splats(splats.means, splats.scales, splats.quaternions, splats.opacity * 0.05, splats.harmonics)
    assert not coverage(faint.solid(), shot, every=1).passed


def test_what_is_missing_is_said_in_one_line(tmp_path, monkeypatch):
    _, splats, shot = room(tmp_path)
    monkeypatch.setitem(sys.modules, "gsplat", None)
    with pytest.raises(Missing, match="gsplat is not installed; allowed: uv pip install gsplat"):
        next(render_splats(splats, shot))
    with pytest.raises(ValueError, match="the path has no lens"):
        next(render_splats(splats, Trajectory(shot.c2w)))

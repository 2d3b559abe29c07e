"""Estimators: points tracked to a fraction of a pixel, pycolmap on an exact render, any program, Pi3 by its calls."""

import sys
import types

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, map_coordinates
from wm_bench.estimators import PoseRequest, Unavailable, get_estimator
from wm_bench.estimators.pi3 import input_size
from wm_bench.poses import score_poses


def request(frames, path=None):
    count = len(frames)
    lens = np.tile([90.0, 90.0, 64.0, 36.0], (count, 1))
    return PoseRequest(frames, lens, np.arange(count) / 4, np.arange(count), path)


def test_points_are_followed_to_a_fraction_of_a_pixel():
    pytest.importorskip("cv2")
    from wm_bench.estimators.tracks import follow_points

    rng = np.random.default_rng(0)
    texture = gaussian_filter(rng.normal(size=(160, 200)), 2.0)
    texture = (texture - texture.min()) / np.ptp(texture) * 255
    rows, columns = np.mgrid[0:100, 0:140].astype(float)
    frames = []
    for i in range(6):
        picture = map_coordinates(texture, [rows + 10 + 1.3 * i, columns + 10 + 2.7 * i], order=3)
        frames.append(np.repeat(np.clip(picture, 0, 255).astype(np.uint8)[..., None], 3, axis=2))
    tracked = follow_points(np.stack(frames), 120)
    first, last = tracked[0], tracked[5]
    _, a, b = np.intersect1d(first.tracks, last.tracks, return_indices=True)
    assert len(a) > 40
    moved = last.points[b] - first.points[a]
    np.testing.assert_allclose(np.median(moved, axis=0), [-13.5, -6.5], atol=0.03)
    assert np.quantile(np.abs(moved - [-13.5, -6.5]), 0.9) < 0.2
    # Points that left the picture are replaced by new ones with new numbers.
    assert last.tracks.max() > first.tracks.max() and len(set(last.tracks)) == len(last.tracks)


def test_pycolmap_has_a_low_floor_on_an_exact_render(box_split):
    pytest.importorskip("pycolmap")
    pytest.importorskip("cv2")
    split = box_split(1, 20.0, fine=True)
    scene = split.scenes[0].cut(5.0)
    times = np.arange(21) * 0.25
    size = (144, 256)
    frames = split.truth(scene, times, size).rgb
    lens = scene.trajectory(size).at(times)[1]
    ask = PoseRequest(frames, lens, times, np.arange(21), None)
    estimator = get_estimator("pycolmap:features=400")
    found = estimator.estimate(ask)
    assert found.registered.all() and estimator.version.endswith("features=400,overlap=8,sift=0;rules=2")
    truth = scene.trajectory().at(times)[0]
    score = score_poses("code-v1", found.c2w, truth, times)
    extent = np.ptp(truth[:, :3, 3], axis=0).max()
    assert score.rot_err_deg < 0.5 and score.trans_err < 0.02 * extent
    again = estimator.estimate(ask)
    np.testing.assert_array_equal(again.c2w, found.c2w)


@pytest.mark.parametrize("options", ["features", "features=0", "threads=2", "overlap=-1", "sift=x"])
def test_wrong_pycolmap_options_are_one_line(options):
    pytest.importorskip("pycolmap")
    with pytest.raises(ValueError, match="allowed: features, overlap, sift"):
        get_estimator(f"pycolmap:{options}")


PROGRAM = """
import sys, pathlib, numpy as np
frames, lens, out = sys.argv[1:4]
count = len(list(pathlib.Path(frames).glob("*.png")))
assert np.load(lens).shape == (count, 4)
c2w = np.tile(np.eye(4), (count, 1, 1))
c2w[:, 0, 3] = np.arange(count)
c2w[2] = np.nan
mode = sys.argv[4]
if mode == "fail":
    print("first line", file=sys.stderr)
    sys.exit("no path found")
np.savez(out, c2w=c2w[:-1] if mode == "short" else c2w)
"""


def test_any_program_is_an_estimator(tmp_path):
    program = tmp_path / "solve.py"
    program.write_text(PROGRAM)
    frames = np.zeros((4, 36, 64, 3), np.uint8)

    def ask(mode):
        return get_estimator(f"command:{sys.executable} {program} {{frames}} {{intrinsics}} {{out}} {mode}")

    found = ask("good").estimate(request(frames))
    assert found.registered.tolist() == [True, True, False, True]
    np.testing.assert_array_equal(found.c2w[[0, 1, 3], 0, 3], [0, 1, 3])
    with pytest.raises(ValueError, match="exit code 1: no path found"):
        ask("fail").estimate(request(frames))
    with pytest.raises(ValueError, match=r"allowed: \(4, 4, 4\)"):
        ask("short").estimate(request(frames))
    # Another program, even under the same name, is another estimator.
    before = ask("good").weights_sha256
    program.write_text(PROGRAM + "\n")
    assert ask("good").weights_sha256 != before
    with pytest.raises(Unavailable, match="no program"):
        get_estimator("command:no-such-program {frames} {out}").estimate(request(frames))
    with pytest.raises(ValueError, match="allowed: a command line"):
        get_estimator("command:solve {frames}")


@pytest.mark.parametrize(
    ("size", "wanted"),
    [((720, 1280), (378, 672)), ((704, 1280), (364, 686)), ((480, 832), (378, 658)), ((128, 128), (504, 504))],
)
def test_pi3_input_sizes_are_the_published_ones(size, wanted):
    assert input_size(*size) == wanted


@pytest.fixture
def fake_pi3(monkeypatch, tmp_path):
    """A pi3 package that answers with poses made from what it is shown."""

    class Model(torch.nn.Module):
        @classmethod
        def from_pretrained(cls, folder):
            assert folder == str(tmp_path)
            return cls()

        def forward(self, images):
            assert images.shape[1:] == (3, 3, 378, 672) and images.min() >= 0 and images.max() <= 1
            c2w = torch.eye(4).repeat(1, images.shape[1], 1, 1)
            c2w[:, :, :3, :3] *= 1.001  # what half precision leaves
            c2w[:, :, 0, 3] = images.mean(dim=(2, 3, 4))
            return {"camera_poses": c2w}

    for name, klass in (("pi3", "Pi3"), ("pi3x", "Pi3X")):
        module = types.ModuleType(f"pi3.models.{name}")
        setattr(module, klass, Model)
        monkeypatch.setitem(sys.modules, f"pi3.models.{name}", module)
    for parent in ("pi3", "pi3.models"):
        monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    return tmp_path


@pytest.mark.parametrize("name", ["pi3", "pi3x"])
def test_pi3_is_asked_as_its_authors_do(name, fake_pi3):
    frames = np.stack([np.full((36, 64, 3), value, np.uint8) for value in (0, 51, 255)])
    estimator = get_estimator(f"{name}:{fake_pi3}")
    found = estimator.estimate(request(frames))
    assert estimator.id == name and len(estimator.weights_sha256) == 64 and found.registered.all()
    np.testing.assert_allclose(found.c2w[:, 0, 3], [0, 0.2, 1], atol=1e-3)
    np.testing.assert_allclose(found.c2w[:, :3, :3], np.tile(np.eye(3), (3, 1, 1)), atol=1e-12)
    (fake_pi3 / "model.safetensors").write_bytes(b"others")
    assert get_estimator(f"{name}:{fake_pi3}").weights_sha256 != estimator.weights_sha256


def test_pi3_without_its_package_or_weights_is_unavailable(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pi3.models.pi3", None)
    with pytest.raises(Unavailable, match="local checkpoint"):
        get_estimator("pi3x")
    with pytest.raises(Unavailable, match="not installed"):
        get_estimator(f"pi3:{tmp_path}")

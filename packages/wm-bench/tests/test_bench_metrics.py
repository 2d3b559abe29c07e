"""Frame metrics, statistics and summaries on cases with known answers (benchmark specification 6.9)."""

import itertools

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from wm_bench.estimators import Unavailable
from wm_bench.metrics.likeness import psnr_db, ssim
from wm_bench.metrics.lpips import Lpips
from wm_bench.metrics.quality import Flicker, drift, frame_proxies, window_means
from wm_bench.metrics.warping import Camera, warp
from wm_bench.sheet import ClipResult, build_sheet, clean, identity
from wm_bench.statistics import bootstrap_mean, paired_p_value
from wm_bench.submission import Submission


def flat(value, size=(24, 32)):
    return np.full((*size, 3), value, np.uint8)


def noise(seed, size=(24, 32)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def test_psnr_of_equal_and_offset_pictures():
    assert psnr_db(noise(0), noise(0)) == 100
    assert psnr_db(flat(100), flat(110)) == pytest.approx(28.1308, abs=1e-4)
    mask = np.zeros((24, 32), bool)
    assert np.isnan(psnr_db(flat(1), flat(2), mask))
    mask[3, 4] = True
    spoilt = flat(100)
    spoilt[3, 4] = 110
    assert psnr_db(spoilt, flat(100), mask) == pytest.approx(28.1308, abs=1e-4)
    assert psnr_db(spoilt, flat(100)) > 50


def slow_ssim(a, b):
    """The definition, pixel by pixel: 11x11 windows with reflected edges and biased variances."""
    total = 0.0
    for channel in range(3):
        x, y = (np.pad(v[..., channel].astype(float), 5, mode="symmetric") for v in (a, b))
        for r, c in itertools.product(range(a.shape[0]), range(a.shape[1])):
            p, q = x[r : r + 11, c : c + 11], y[r : r + 11, c : c + 11]
            cov = ((p - p.mean()) * (q - q.mean())).mean()
            top = (2 * p.mean() * q.mean() + 6.5025) * (2 * cov + 58.5225)
            total += top / ((p.mean() ** 2 + q.mean() ** 2 + 6.5025) * (p.var() + q.var() + 58.5225))
    return total / (3 * a.shape[0] * a.shape[1])


def test_ssim_is_the_released_one():
    assert ssim(noise(1), noise(1)) == pytest.approx(1, abs=1e-12)
    assert ssim(flat(100), flat(110)) == pytest.approx(0.9954764, abs=1e-7)
    a, b = noise(2, (14, 17)), noise(3, (14, 17))
    assert ssim(a, b) == pytest.approx(slow_ssim(a, b), abs=1e-12)
    half = ((a.astype(int) + b) // 2).astype(np.uint8)
    assert ssim(a, half) == pytest.approx(slow_ssim(a, half), abs=1e-12)


@pytest.mark.parametrize("step", [0, 1, 17, 255])
def test_flicker_of_alternating_frames(step):
    flicker = Flicker()
    assert np.isnan(flicker.value)
    for i in range(6):
        flicker.add(flat(step if i % 2 else 0))
    assert flicker.value == pytest.approx(1 - step / 255, abs=1e-12)


@pytest.mark.parametrize(
    ("frames", "fps", "duration_s", "windows"),
    [(961, 16, 60.0, 6), (960, 16, 60.0, 6), (241, 16, 15.0, 1), (1441, 24, 60.0, 6), (1801, 30, 60.0, 6),
     (1761, 16, 110.0, 11), (65, 16, 4.0, 1)],
)  # fmt: skip
def test_windows_are_ten_seconds_at_any_frame_rate(frames, fps, duration_s, windows):
    times = np.arange(frames) / fps
    means = window_means(times, times, duration_s)
    assert len(means) == windows
    # In numeric order: the mean time of window w is the middle of it.
    assert np.all(np.diff(means) > 9.9)
    if windows > 1:
        np.testing.assert_allclose(means, 10 * np.arange(windows) + 5 - 0.5 / fps, atol=1e-9)
        assert drift(means) == pytest.approx(-10 * (windows - 1))
    else:
        assert np.isnan(drift(means))


def test_a_blur_ramp_lowers_sharpness_window_by_window():
    from scipy.ndimage import gaussian_filter

    base = noise(5, (48, 64))
    times = np.arange(61.0)
    frames = [gaussian_filter(base, (s, s, 0)) for s in np.linspace(0, 4, 61)]
    sharpness = window_means(np.array([frame_proxies(f)[0] for f in frames]), times, 60.0)
    assert np.all(np.diff(sharpness) < 0) and drift(sharpness) > 0


def test_proxies_of_plain_pictures():
    assert frame_proxies(flat(70)).tolist() == [0, 0, 0, pytest.approx(1)]
    red = flat(0)
    red[..., 0] = 200
    assert frame_proxies(red)[2] == 200
    blocks = np.kron(np.random.default_rng(0).integers(0, 255, (4, 5)), np.ones((8, 8))).astype(np.uint8)
    assert frame_proxies(np.repeat(blocks[..., None], 3, 2))[3] > 100


def test_a_frame_is_carried_by_depth():
    lens = np.array([50.0, 50.0, 32.0, 24.0])
    wall = np.full((48, 64), 5.0, np.float32)
    picture = noise(6, (48, 64))
    here = np.eye(4)
    there = np.eye(4)
    there[0, 3] = 0.4  # 4 px at 5 m
    moved, mask = warp(picture, Camera(there, lens, wall), Camera(here, lens, wall))
    inner = slice(1, -1)  # the outermost half pixels may fall either way
    np.testing.assert_array_equal(moved[inner, 5:-1], picture[inner, 1:-5])
    assert mask[inner, 5:-1].all() and not mask[:, :3].any()
    # What the other camera sees in front hides the wall behind it.
    near = wall.copy()
    near[:, 20:30] = 2.0
    assert not warp(picture, Camera(there, lens, near), Camera(here, lens, wall))[1][:, 26:33].any()
    sky = np.full((48, 64), np.inf, np.float32)
    assert not warp(picture, Camera(there, lens, sky), Camera(here, lens, sky))[1].any()


def test_paired_tests_count_exactly():
    assert paired_p_value(np.array([1.0, 1.0, 1.0])) == pytest.approx(2 / 8)
    assert paired_p_value(np.array([1.0, -1.0])) == 1.0
    assert paired_p_value(np.full(10, 0.1)) == pytest.approx(2 / 1024)
    assert np.isnan(paired_p_value(np.zeros(0)))
    rng = np.random.default_rng(0)
    many = rng.normal(1.0, 1.0, 40)
    assert paired_p_value(many) == paired_p_value(many) < 0.001
    assert paired_p_value(rng.normal(0.0, 1.0, 40)) > 0.01


def test_bootstrap_intervals_are_seeded_and_cover():
    values = np.random.default_rng(1).normal(3.0, 2.0, 80)
    found = bootstrap_mean(values)
    assert found == bootstrap_mean(values)
    assert found.mean == pytest.approx(values.mean())
    expected = 1.96 * values.std() / np.sqrt(80)
    assert found.mean - found.low == pytest.approx(expected, rel=0.1)
    assert found.high - found.mean == pytest.approx(expected, rel=0.1)
    assert np.isnan(bootstrap_mean(np.array([1.0])).low) and np.isnan(bootstrap_mean(np.zeros(0)).mean)
    assert bootstrap_mean(np.array([1.0, 4.0]), np.array([3.0, 1.0])).mean == pytest.approx(1.75)


def test_revisits_average_over_pairs_and_categories_over_scenes(box_split):
    split = box_split(2, 12.0)
    first, second = (scene.id for scene in split.scenes)
    results = {
        first: ClipResult({"revisit_psnr_db": 10.0}, pairs=1),
        second: ClipResult({"revisit_psnr_db": 20.0}, pairs=4),
    }
    idents = {"revisit_psnr_db": identity("revisit_psnr_db", split, {"version": "x"}, "wm-bench", "1", "none")}
    sheet = build_sheet(split, Submission(None, "m", {}, {}, []), results, idents, {})
    found = sheet["metrics"]["revisit_psnr_db"]
    assert found["mean"] == pytest.approx(18.0)
    assert [g["mean"] for g in found["per_category"].values()] == [10.0, 20.0]


def test_identities_differ_when_anything_does(box_split):
    split = box_split(1, 4.0)
    base = ("ref_ssim", split, {"version": "1"}, "wm-bench", "1", "none")
    known = identity(*base)["id"]
    assert identity(*base)["id"] == known
    for place, other in (
        (0, "ref_psnr_db"),
        (1, box_split(2, 4.0)),
        (2, {"version": "2"}),
        (3, "x"),
        (4, "2"),
        (5, "ab"),
    ):
        changed = list(base)
        changed[place] = other
        assert identity(*changed)["id"] != known


def test_json_never_meets_nan():
    assert clean({"a": [float("nan"), np.float64(1.5)], "b": (np.int64(2), float("inf"))}) == {
        "a": [None, 1.5], "b": [2, None],
    }  # fmt: skip


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory):
    """AlexNet's features and five heads with random weights, as a file and as torch modules."""
    torch.manual_seed(0)
    features = nn.Sequential(
        nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(),
        nn.MaxPool2d(3, 2), nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(), nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(),
    )  # fmt: skip
    heads = [torch.rand(1, channels, 1, 1) for channels in (64, 192, 384, 256, 256)]
    state = {f"features.{name}": value for name, value in features.state_dict().items()}
    state |= {f"lin{i}.model.1.weight": head for i, head in enumerate(heads)}
    path = tmp_path_factory.mktemp("lpips") / "alex.safetensors"
    save_file(state, path)
    return path, features, heads


def test_lpips_is_the_published_network(alexnet):
    path, features, heads = alexnet
    a, b = noise(7, (64, 80)), noise(8, (64, 80))
    taps = []
    with torch.no_grad():
        for picture in (a, b):
            x = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 127.5 - 1
            mean, std = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
            x = (x - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
            own = []
            for layer in features:
                x = layer(x)
                if isinstance(layer, nn.ReLU):
                    own.append(nn.functional.normalize(x, dim=1))
            taps.append(own)
        expected = sum(float((h * (p - q) ** 2).sum(1).mean()) for h, p, q in zip(heads, *taps, strict=True))
    lpips = Lpips(path)
    assert lpips(a, b) == pytest.approx(expected, rel=1e-5) and expected > 0.01
    assert lpips(a, a) == 0 and lpips(a, b) == lpips(b, a) and len(lpips.weights_sha256) == 64


def test_lpips_without_its_weights_is_unavailable_and_never_approximated(tmp_path):
    with pytest.raises(Unavailable, match="--lpips-weights"):
        Lpips(None)
    with pytest.raises(ValueError, match="no LPIPS weights at"):
        Lpips(tmp_path / "none.safetensors")
    save_file({"features.0.weight": torch.zeros(1)}, tmp_path / "part.safetensors")
    with pytest.raises(ValueError, match="lacks"):
        Lpips(tmp_path / "part.safetensors")

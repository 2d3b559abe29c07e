"""VBench's arithmetic against published rows, and its subprocess against a stand-in package."""

import sys

import numpy as np
import pytest
from wm_bench.cache import Cache
from wm_bench.estimators import Unavailable
from wm_bench.metrics.vbench import QUALITY, i2v_scores, normalised, quality_score
from wm_bench.metrics.vbench_run import run_vbench
from wm_bench.quoted import TABLES, quoted
from wm_bench.video import decode, probe, write_lossless, write_lossless_mp4

SHORT = {
    "SC": "subject_consistency", "BC": "background_consistency", "TF": "temporal_flickering",
    "MS": "motion_smoothness", "AQ": "aesthetic_quality", "IQ": "imaging_quality", "DD": "dynamic_degree",
    "CM": "camera_motion", "IS": "i2v_subject", "IB": "i2v_background",
}  # fmt: skip
ROWS = [row for row in quoted("table2") if row["SC"] is not None]


def parts(row, over):
    return {SHORT[key]: row[key] / over for key in SHORT if row.get(key) is not None}


@pytest.mark.parametrize("row", ROWS, ids=lambda r: f"{r['split']} {r['method']}")
def test_published_overall_follows_from_its_dimensions(row):
    overall = 100 * quality_score(parts(row, 100))
    if row["doubt"]:
        assert abs(overall - row["overall"]) > 0.05
    else:
        assert overall == pytest.approx(row["overall"], abs=0.0101)


def test_nine_of_twelve_rows_agree_and_the_doubts_have_one_explanation():
    assert sum(not row["doubt"] for row in ROWS) == 9
    by_name = {(row["split"], row["method"]): row for row in ROWS}
    for split, method, change in (
        ("simple", "LingBot-World", {"DD": 62.50}),
        ("simple", "LingBot-World", {"AQ": 63.82}),
        ("hard", "Infinite-World", {"DD": 98.75}),
        ("hard", "Matrix-Game 3.0", {"DD": 98.75}),
    ):
        row = by_name[split, method] | change
        assert 100 * quality_score(parts(row, 100)) == pytest.approx(row["overall"], abs=0.0101)
    # The dynamic degree is a share of 80 videos; only the doubted cell is none.
    odd = [(r["split"], r["method"]) for r in ROWS if abs(r["DD"] / 1.25 - round(r["DD"] / 1.25)) > 1e-6]
    assert odd == [("hard", "Infinite-World")]


@pytest.mark.parametrize("row", quoted("i2v"), ids=lambda r: r["model"])
def test_published_image_to_video_rows_follow_from_theirs(row):
    assert i2v_scores(parts(row, 1)) == pytest.approx((row["quality"], row["i2v"], row["total"]), abs=2e-4)


def test_published_drift_is_the_difference_of_its_windows():
    rows = [row for row in quoted("table8") if row["iq_first"] is not None]
    assert len(rows) == 12
    for row in rows:
        assert row["drift_iq"] == pytest.approx(row["iq_first"] - row["iq_last"], abs=0.0101)


def test_every_quoted_table_reads_and_an_unknown_one_is_one_line():
    assert all(quoted(table) for table in TABLES)
    with pytest.raises(ValueError, match="allowed: table2"):
        quoted("table3")


def test_a_missing_dimension_leaves_no_overall_and_ends_are_clipped():
    full = dict.fromkeys(QUALITY, 1.0)
    assert quality_score(full) == 1.0
    for name in QUALITY:
        assert quality_score({k: v for k, v in full.items() if k != name}) is None
    assert normalised("motion_smoothness", 0.999) == 1.0 and normalised("motion_smoothness", 0.5) == 0.0
    # Half the weight of any other dimension: 6 / 6.5 without movement.
    assert quality_score(full | {"dynamic_degree": 0.0}) == pytest.approx(6 / 6.5, abs=1e-4)


FAKE = """
import json, os
from pathlib import Path
print("chatter that must not end up in the answer")
class VBench:
    def __init__(self, device, info, output):
        assert device == "cpu"
        self.output = Path(output)
    def evaluate(self, videos_path, name, prompt_list, dimension_list, mode):
        assert mode == "custom_input"
        files = sorted(Path(videos_path).iterdir())
        assert {str(f) for f in files} == set(prompt_list)
        if os.environ.get("BREAK"):
            raise RuntimeError("no weights")
        value = {"imaging_quality": 70.0, "dynamic_degree": True}.get(name, 0.9)
        entries = [
            {"video_path": str(f), "video_results": value - (8 if "~last" in f.name else 0)}
            for f in files
        ]
        (self.output / f"{name}_eval_results.json").write_text(json.dumps({name: [0.5, entries]}))
"""
FAKE_TORCH = """
class cuda:
    @staticmethod
    def is_available():
        return False
def device(name):
    return name
"""


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """A Python whose vbench is a stand-in."""
    site = tmp_path / "site"
    (site / "vbench").mkdir(parents=True)
    (site / "vbench" / "__init__.py").write_text(FAKE)
    (site / "torch.py").write_text(FAKE_TORCH)
    (site / "vbench-0.1.5.dist-info").mkdir()
    (site / "vbench-0.1.5.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: vbench\nVersion: 0.1.5\n")
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "musiq.pth").write_bytes(b"weights")
    monkeypatch.setenv("VBENCH_CACHE_DIR", str(weights))
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{site}" exec "{sys.executable}" -S "$@"\n')
    python.chmod(0o755)
    return python


@pytest.fixture
def clips(box_split, tmp_path):
    split = box_split(2, 20.0)
    frames = np.random.default_rng(0).integers(0, 256, (21, 32, 48, 3), dtype=np.uint8)
    videos = {s.id: probe(write_lossless(tmp_path / "v" / f"{s.id}.mkv", frames, 1.0)) for s in split.scenes}
    return split, videos


def test_vbench_runs_in_its_own_environment(environment, clips, tmp_path, monkeypatch):
    split, videos = clips
    cache = Cache(tmp_path / "cache")
    found = run_vbench(environment, videos, split, cache)
    assert found.version == "0.1.5" and len(found.weights_sha256) == 64
    assert set(found.values) == set(videos)
    values = found.values["indoor_001"]
    # Imaging quality of a video comes in 0..100; its drift is first minus last window.
    assert values["imaging_quality"] == pytest.approx(0.7) and values["dynamic_degree"] == 1.0
    assert values["drift_imaging_quality"] == pytest.approx(0.08)
    raw = dict.fromkeys(QUALITY, 0.9) | {"imaging_quality": 0.7, "dynamic_degree": 1.0}
    assert values["vbench_quality"] == pytest.approx(100 * quality_score(raw))
    # Kept by content: the second call does not run VBench, which would now fail.
    monkeypatch.setenv("BREAK", "1")
    assert run_vbench(environment, videos, split, cache) == found
    with pytest.raises(Unavailable, match="no weights"):
        run_vbench(environment, videos, split, Cache(None))


def test_no_vbench_is_unavailable_with_a_reason(clips, tmp_path):
    split, videos = clips
    with pytest.raises(Unavailable, match="no Python at"):
        run_vbench(tmp_path / "nothing", videos, split, Cache(None))
    plain = tmp_path / "python"
    plain.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    plain.chmod(0o755)
    with pytest.raises(Unavailable, match="no vbench package"):
        run_vbench(plain, videos, split, Cache(None))


def test_windows_for_other_programs_lose_nothing(tmp_path):
    frames = np.random.default_rng(1).integers(0, 256, (5, 32, 48, 3), dtype=np.uint8)
    path = write_lossless_mp4(tmp_path / "a.mp4", frames, 16.0)
    np.testing.assert_array_equal(np.stack(list(decode(path))), frames)

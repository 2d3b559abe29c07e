"""The page of a clip: its verdict with reasons, put in anew by every judging, and a focal curve that can be read."""

import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from pose_annotation.judging import judge_folder
from pose_annotation.overview import _lens, draw_overview, draw_unsolved, show_verdict
from pose_annotation.policy import load_policy
from pose_annotation.types import CameraTrack

sys.path.insert(0, str(Path(__file__).parent))
from annotated_folder import write_folder
from tiny_videos import sliding


def camera(focal, std=0.002):
    n = len(focal)
    c2w = np.tile(np.eye(4), (n, 1, 1))
    c2w[:, 2, 3] = np.linspace(0, 1, n)
    lens = np.stack([focal, focal, np.full(n, 80.0), np.full(n, 48.0)], 1)
    return CameraTrack(
        c2w, lens, (96, 160), np.full(n, std), np.zeros((n, 6)), np.full(n, 0.2), np.ones(n), np.arange(n) % 4 == 0,
        np.zeros((0, 3)),
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    names = list(write_folder(tmp_path))
    record = {
        "id": names[0], "flags": [], "metric": True, "frames": 17, "fps": 16.0, "width": 160, "height": 96,
        "video": {"name": "walk.mp4", "start_s": 0.0, "end_s": 1.0}, "caption": {"text": "A <room>."},
        "scores": {"flow": 12.0, "dover": None}, "reason": "nothing <moves>",
    }  # fmt: skip
    draw_overview(tmp_path / "overview" / f"{names[0]}.html", record, camera(np.full(17, 90.0)), sliding(17, (96, 160)))
    draw_unsolved(tmp_path / "overview" / f"{names[1]}.html", record | {"id": names[1]})
    return tmp_path, names


def test_a_page_shows_the_last_verdict_and_why(folder):
    root, (name, unsolved) = folder
    page = root / "overview" / f"{name}.html"
    assert "Not judged yet" in page.read_text() and "A &lt;room&gt;." in page.read_text()
    judge_folder(root)
    kept = page.read_text()
    assert "<strong>Kept</strong> by the built-in policy (lenient), row &#x27;video&#x27;" in kept
    assert "Not judged yet" not in kept
    assert "nothing &lt;moves&gt;" in (root / "overview" / f"{unsolved}.html").read_text()
    tight = root / "tight.toml"
    tight.write_text("[camera]\n[flags]\nreject = []\n[source.video]\nflow = [20, 80]\n")
    judge_folder(root, load_policy(tight))
    rejected = page.read_text()
    assert "<strong>Rejected</strong> by tight.toml (lenient)" in rejected and "flow 12 outside 20..80" in rejected
    assert "Kept" not in rejected and rejected.count('class="verdict') == 1
    judge_folder(root)
    assert page.read_text() == kept


def test_pages_without_a_place_for_a_verdict_are_left_alone(tmp_path):
    verdict = {"kept": False, "reasons": ["x"], "unknown": []}
    show_verdict(tmp_path / "gone.html", verdict, "a policy")
    assert not (tmp_path / "gone.html").exists()
    old = tmp_path / "old.html"
    old.write_text("<!doctype html><title>of an older version</title>")
    show_verdict(old, verdict, "a policy")
    open_page = tmp_path / "open.html"
    open_page.write_text("<!--verdict--><!--/verdict-->")
    show_verdict(open_page, {"kept": True, "reasons": [], "unknown": ["dover", "flow"]}, "a policy")
    assert "Not measured, so not judged: dover, flow." in open_page.read_text()
    assert old.read_text() == "<!doctype html><title>of an older version</title>"


def test_judging_a_folder_twice_writes_no_page_again(folder):
    root, (name, _) = folder
    judge_folder(root)
    page = root / "overview" / f"{name}.html"
    before = page.stat().st_mtime_ns
    judge_folder(root)
    assert page.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("focal", "std", "fills"),
    [
        (np.linspace(345, 360, 40), 0.001, 0.5),  # 4 %: fills the picture
        (np.linspace(220, 330, 40), 0.05, 0.3),  # a zoom, hardly known
        (350 + 0.2 * np.sin(np.arange(40)), 0.001, 0.0),  # steady: stays a line
    ],
)
def test_the_focal_curve_is_drawn_at_the_scale_of_what_it_does(focal, std, fills):
    axes = Figure().add_subplot()
    _lens(axes, camera(focal, std), np.arange(40) / 16)
    low, high = axes.get_ylim()
    share = np.ptp(focal) / (high - low)
    assert low < focal.min() and high > focal.max()
    assert share > fills and (fills or share < 0.1)
    assert "degrees wide" in axes.get_title()

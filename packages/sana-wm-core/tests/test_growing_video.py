"""The MP4 that plays while it grows: readable at any moment, and after whatever stopped its writing."""

import threading
import time

import numpy as np
import pytest
from sana_wm_core.background import BackgroundVideo
from sana_wm_core.video import GrowingVideo, keep_whole_fragments, read_video


def frames(count, height=32, width=48, seed=0):
    smooth = np.random.default_rng(seed).normal(size=(count, 4, 6, 3)).cumsum(0) * 12 + 128
    return smooth.clip(0, 255).astype(np.uint8).repeat(height // 4, 1).repeat(width // 6, 2)


def test_it_plays_while_it_grows(tmp_path):
    path, seen = tmp_path / "a.mp4", []
    with GrowingVideo(path, crf=10) as video:
        for part in np.split(frames(96), 4):
            video.append(part)
            seen.append(len(read_video(path)))
    assert seen == sorted(seen) and seen[0] >= 16 and seen[-1] < 96 + 1
    done = read_video(path)
    assert done.shape == (96, 32, 48, 3) and np.abs(done.astype(int) - frames(96)).mean() < 6


def test_the_same_frames_give_the_same_bytes_however_they_come(tmp_path):
    for name, parts in (("a", 1), ("b", 6)):
        with GrowingVideo(tmp_path / f"{name}.mp4") as video:
            for part in np.split(frames(48), parts):
                video.append(part)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_an_error_finishes_the_file(tmp_path):
    path = tmp_path / "a.mp4"
    with pytest.raises(KeyboardInterrupt), GrowingVideo(path) as video:
        video.append(frames(20))
        raise KeyboardInterrupt
    assert len(read_video(path)) == 20
    video.close()


def test_a_cut_file_keeps_its_whole_fragments(tmp_path):
    path = tmp_path / "a.mp4"
    with GrowingVideo(path, fps=16) as video:
        video.append(frames(64))
    whole, counts = path.read_bytes(), []
    for length in range(0, len(whole) + 1, max(1, len(whole) // 25)):
        path.write_bytes(whole[:length])
        counts.append(keep_whole_fragments(path))
        assert path.stat().st_size <= length
        if counts[-1]:
            assert len(read_video(path)) == counts[-1]
    assert counts == sorted(counts) and counts[0] == 0
    path.write_bytes(whole)
    assert keep_whole_fragments(path) == 64


def test_a_background_writer_writes_the_same(tmp_path):
    with GrowingVideo(tmp_path / "a.mp4") as video:
        video.append(frames(64))
    with BackgroundVideo(GrowingVideo(tmp_path / "b.mp4")) as video:
        for part in np.split(frames(64), 8):
            video.append(part)
    video.close()
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_a_background_writer_does_not_hold_up_its_owner(tmp_path, monkeypatch):
    gate, seen = threading.Event(), []
    monkeypatch.setattr(GrowingVideo, "append", lambda self, piece: (gate.wait(20), seen.append(len(piece))))
    with BackgroundVideo(GrowingVideo(tmp_path / "a.mp4"), waiting=2) as video:
        video.append(frames(1))
        video.append(frames(2))
        assert not seen
        gate.set()
    assert seen == [1, 2]


@pytest.mark.parametrize("when", ["next", "close"])
def test_a_background_error_reaches_its_owner_once(tmp_path, monkeypatch, when):
    def fail(self, piece):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(GrowingVideo, "append", fail)
    video = BackgroundVideo(GrowingVideo(tmp_path / "a.mp4"))
    video.append(frames(1))
    with pytest.raises(OSError, match="No space"):
        if when == "next":
            for _ in range(1000):
                video.append(frames(1))
                time.sleep(0.01)
        video.close()
    video.close()


def test_an_error_of_the_owner_is_the_one_that_is_seen(tmp_path, monkeypatch):
    def fail(self, piece):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(GrowingVideo, "append", fail)
    with pytest.raises(KeyboardInterrupt), BackgroundVideo(GrowingVideo(tmp_path / "a.mp4")) as video:
        video.append(frames(1))
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    "bad, word",
    [
        (np.zeros((2, 32, 48), np.uint8), "uint8"),
        (np.zeros((2, 32, 48, 3), np.float32), "float32"),
        (np.zeros((2, 16, 48, 3), np.uint8), "16x48"),
    ],
)
def test_frames_that_do_not_fit(tmp_path, bad, word):
    with GrowingVideo(tmp_path / "a.mp4") as video:
        video.append(frames(1))
        with pytest.raises(ValueError, match=word):
            video.append(bad)
    with pytest.raises(ValueError, match="frame rate"):
        GrowingVideo(tmp_path / "b.mp4", fps=0)

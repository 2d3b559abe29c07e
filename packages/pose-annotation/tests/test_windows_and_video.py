"""Reading videos, sound or broken, and cutting them into windows."""

import sys
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pose_annotation.scores import MotionMeter
from pose_annotation.video import BrokenVideo, Picture, Video, _luma, read_clip, working_size
from pose_annotation.windows import SceneFinder, WindowCutter, WindowRule, scene_starts, windows

sys.path.insert(0, str(Path(__file__).parent))
import tiny_videos as tiny


@given(st.integers(0, 5000), st.integers(17, 1200), st.integers(0, 1200), st.integers(1, 700))
@settings(max_examples=300, deadline=None)
def test_windows_are_16k_plus_1_frames_inside_the_scene(length, least, more, stride):
    rule = WindowRule(least, least + more, stride)
    found = windows(100, 100 + length, rule)
    for first, stop in found:
        assert 100 <= first < stop <= 100 + length
        assert (stop - first) % 16 == 1 and rule.least <= stop - first <= rule.most
    assert found == sorted(set(found))
    if length > rule.most and found:
        assert found[0][0] == 100 and found[-1][1] == 100 + length


@given(
    st.lists(st.integers(15, 60), min_size=1, max_size=3), st.integers(17, 50), st.integers(0, 30), st.integers(1, 40)
)
@settings(max_examples=50, deadline=None)
def test_cutting_a_stream_gives_the_windows_of_the_whole(scenes, least, more, stride):
    rule, pictures, expected, start = WindowRule(least, least + more, stride), [], [], 0
    for number, length in enumerate(scenes):
        # One grey a scene, far enough apart for a cut.
        grey = np.full((4, 4, 3), 255 * (number % 2), np.uint8)
        pictures += [Picture(float(start + i), grey, np.zeros((8, 8), np.uint8)) for i in range(length)]
        expected += [(number, first, stop) for first, stop in windows(start, start + length, rule)]
        start += length
    cutter = WindowCutter(rule)
    found = list(cutter.cut(iter(pictures)))
    assert [(w.scene, w.first, w.first + len(w.frames)) for w in found] == expected
    assert all(np.array_equal(w.times_s, np.arange(w.first, w.first + len(w.frames))) for w in found)
    assert cutter.frames == start and cutter.scenes == len(scenes)


def test_the_cutter_holds_no_more_than_it_needs():
    grey = np.zeros((2, 2, 3), np.uint8)
    cutter, most = WindowCutter(WindowRule(17, 33, 8)), 0
    for _ in cutter.cut(Picture(float(i), grey, np.zeros((8, 8), np.uint8)) for i in range(400)):
        most = max(most, len(cutter._held))
    assert most <= 34


def test_a_cut_is_found_and_a_slide_is_not():
    one, other = tiny.sliding(20), tiny.sliding(20, seed=5) // 2
    assert scene_starts(np.concatenate([one, other])) == [0, 20]
    assert scene_starts(one) == [0]
    assert not SceneFinder().feed(one[0])


def test_cuts_agree_with_pyscenedetect():
    detect = pytest.importorskip("scenedetect", reason="PySceneDetect is a test-time peer only")
    parts = [tiny.sliding(n, (96, 256), seed=s) // d for n, s, d in ((30, 0, 1), (20, 5, 2), (9, 7, 1), (25, 3, 3))]
    frames = np.concatenate(parts)
    detector = detect.ContentDetector()
    cuts: list[int] = []
    for number, frame in enumerate(frames):
        at = detect.FrameTimecode(number, 16.0)
        cuts += [int(c.frame_num) for c in detector.process_frame(at, np.ascontiguousarray(frame[..., ::-1]))]
    assert scene_starts(frames)[1:3] == sorted(cuts)[:2] == [30, 50]


def test_frames_follow_the_clock_not_the_count(tmp_path):
    frames = tiny.sliding(40, step=1)
    path = tiny.write(tmp_path / "fast.mp4", frames, fps=32)
    clip = read_clip(path)
    assert clip.fps == 16 and clip.native_fps == pytest.approx(32)
    assert np.allclose(clip.times_s, np.arange(len(clip)) / 16) and len(clip) == 20
    slow = read_clip(tiny.write(tmp_path / "slow.mp4", frames, fps=10))
    assert slow.fps == pytest.approx(10) and len(slow) == 40
    times = [0, 62, 125, 188, 250, 313, 375, 438, 500, 900, 963, 1025, 1088, 1150]
    uneven = read_clip(tiny.write(tmp_path / "uneven.mp4", frames[:14], times=times))
    gap = np.flatnonzero(np.abs(uneven.times_s - 0.5) < 1e-3)
    assert len(gap) >= 3  # the picture before the gap stays until its neighbour is nearer
    part = read_clip(path, start_s=0.25, end_s=1.0)
    assert len(part) == 12 and part.times_s[0] == pytest.approx(0.25)


def test_a_turned_phone_gives_upright_pictures(tmp_path):
    frames = tiny.sliding(12)
    frames[:, :40, :60] = (255, 0, 0)  # red where the stored picture begins
    clip = read_clip(tiny.rotated(tmp_path / "turned.mp4", frames))
    assert clip.size == (160, 96) and clip.source_size == (160, 96)
    red = clip.frames[5].astype(int)
    assert red[10, 85, 0] > 200 and red[10, 85, 1] < 60  # clockwise: the corner goes to the right
    assert not (red[10, 10, 0] > 200 and red[10, 10, 1] < 60)


@pytest.mark.parametrize("pix_fmt", ["yuv420p10le", "gray", "yuv444p"])
def test_ten_bit_and_grey_become_eight_bit_colour(tmp_path, pix_fmt):
    frames = tiny.sliding(12)
    clip = read_clip(tiny.write(tmp_path / "x.mp4", frames, pix_fmt=pix_fmt))
    assert clip.frames.dtype == np.uint8 and clip.frames.shape == frames.shape
    grey = frames.mean((1, 2, 3)) if pix_fmt != "gray" else clip.frames.mean((1, 2, 3))
    assert np.abs(clip.frames.mean((1, 2, 3)) - grey).max() < 6


def test_broken_files_say_what_is_wrong(tmp_path):
    empty = tmp_path / "empty.mp4"
    empty.touch()
    whole = tiny.write(tmp_path / "whole.mkv", tiny.sliding(48, step=1))
    data = whole.read_bytes()
    headless = tiny.write(tmp_path / "cut.mp4", tiny.sliding(12))
    headless.write_bytes(headless.read_bytes()[:3000])
    (tmp_path / "half.mkv").write_bytes(data[: len(data) // 2])
    (tmp_path / "noise.mp4").write_bytes(bytes(range(256)) * 20)
    cases = {
        tmp_path / "gone.mp4": "no such video",
        empty: "is empty",
        headless: "cannot be read",
        tmp_path / "half.mkv": "ends after|cannot be read",
        tmp_path / "noise.mp4": "cannot be read",
        tiny.audio_only(tmp_path / "sound.mp4"): "no video stream",
        tiny.write(tmp_path / "one.mp4", tiny.sliding(1)): "has 1 frame at",
        tiny.write(tmp_path / "eight.mp4", tiny.sliding(8)): "has 8 frames at 16 fps; allowed: at least 9",
    }
    for path, message in cases.items():
        with pytest.raises(BrokenVideo, match=message) as caught:
            read_clip(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="fps is 0"):
        Video(whole, fps=0)
    with pytest.raises(ValueError, match="windows are 5 to 9"):
        WindowRule(5, 9, 1)


def test_motion_equals_ffmpegs_filter(tmp_path):
    if "vmafmotion" not in av.filter.filters_available:
        pytest.skip("this PyAV was built without ffmpeg's vmafmotion filter")
    path = tiny.write(tmp_path / "m.mp4", tiny.sliding(10, (90, 162), step=3))
    meter = MotionMeter()
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        graph = av.filter.Graph()
        source, motion, sink = graph.add_buffer(template=stream), graph.add("vmafmotion"), graph.add("buffersink")
        source.link_to(motion)
        motion.link_to(sink)
        graph.configure()
        for frame in container.decode(stream):
            own = meter.measure(_luma(frame))
            graph.push(frame)
            assert f"{own:.2f}" == graph.pull().metadata["lavfi.vmafmotion.score"]


def test_working_size_is_even_and_never_larger():
    assert working_size((720, 1280), 448) == (252, 448)
    assert working_size((720, 1280), None) == (720, 1280) == working_size((720, 1280), 4000)
    assert working_size((363, 641), 321) == (182, 320)

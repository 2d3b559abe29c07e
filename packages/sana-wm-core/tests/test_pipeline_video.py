"""Video files and contact sheets: they play, they repeat to the byte, they are whole or absent."""

import av
import numpy as np
import pytest
from PIL import Image
from sana_wm_core.video import ContactSheet, read_video, write_contact_sheet, write_text, write_video, written_whole


def _frames(count=9, height=64, width=96):
    y, x = np.mgrid[:height, :width]
    return np.stack(
        [np.stack([(x * 2 + 8 * i) % 200, (y * 3) % 250, x * 0 + 10 * i], -1).astype(np.uint8) for i in range(count)]
    )


def test_the_file_is_what_browsers_play(tmp_path):
    path = tmp_path / "a.mp4"
    write_video(path, _frames(), fps=16)
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 16 and stream.frames == 9
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat"), "the index must come first so that playing starts at once"


def test_smooth_content_survives(tmp_path):
    y, x = np.mgrid[:64, :96]
    frame = np.stack([128 + 80 * np.sin(x / 20), 128 + 60 * np.cos(y / 15), 100 + x * 0], -1).astype(np.uint8)
    frames = np.stack([np.roll(frame, i, axis=1) for i in range(9)])
    write_video(tmp_path / "a.mp4", frames)
    back = read_video(tmp_path / "a.mp4")
    assert back.shape == frames.shape
    mse = ((back.astype(float) - frames) ** 2).mean()
    assert 10 * np.log10(255**2 / mse) > 36


def test_same_frames_same_bytes(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (17, 12, 20, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    seen = set()
    for i in range(12):
        # What freed memory holds must not reach the file.
        del_me = [np.full(10_000 + 30_000 * j, (37 * i + j) % 256, np.uint8) for j in range(12)]
        del del_me
        write_video(tmp_path / "a.mp4", frames)
        seen.add((tmp_path / "a.mp4").read_bytes())
    assert len(seen) == 1


@pytest.mark.parametrize("height, width", [(63, 95), (64, 95), (63, 96), (17, 33)])
def test_odd_sizes_are_rounded_up(tmp_path, height, width):
    write_video(tmp_path / "a.mp4", _frames(3, height, width))
    assert read_video(tmp_path / "a.mp4").shape == (3, height + height % 2, width + width % 2, 3)


@pytest.mark.parametrize("fps", [7.5, 16, 23.976, 30])
def test_frame_rates(tmp_path, fps):
    write_video(tmp_path / "a.mp4", _frames(4), fps)
    with av.open(str(tmp_path / "a.mp4")) as file:
        assert float(file.streams.video[0].average_rate) == pytest.approx(fps, rel=1e-3)


@pytest.mark.parametrize(
    "frames, fps", [(np.zeros((0, 8, 8, 3), np.uint8), 16), (np.zeros((2, 8, 8, 3)), 16), (_frames(2), 0)]
)
def test_nonsense_is_refused(tmp_path, frames, fps):
    with pytest.raises(ValueError, match="must be"):
        write_video(tmp_path / "a.mp4", frames, fps)
    assert not list(tmp_path.iterdir())


def test_an_error_on_the_way_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), written_whole(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("count", [1, 5, 65])
def test_contact_sheet(tmp_path, count):
    write_contact_sheet(tmp_path / "sheet.png", _frames(count))
    sheet = Image.open(tmp_path / "sheet.png")
    assert sheet.width > 1200 and np.array(sheet).std() > 10
    pieces = ContactSheet(count)
    for start in range(0, count, 24):
        pieces.append(_frames(count)[start : start + 24])
    pieces.save(tmp_path / "pieces.png")
    assert (tmp_path / "pieces.png").read_bytes() == (tmp_path / "sheet.png").read_bytes()
    assert len(pieces.held) == min(count, 12)

"""Pictures: they are written, they show the path where it is, and bad pictures are refused."""

import numpy as np
import pytest
from camera_control import action_string_to_c2w
from camera_control.draw import draw_over_image, draw_top_view, open_image
from camera_control.geometry import intrinsics_from_fov
from camera_control.trajectory import Trajectory
from PIL import Image

SIZE = (176, 320)


def path(action="w-60,wl-20", **options):
    return Trajectory(action_string_to_c2w(action), intrinsics_from_fov(70.0, SIZE), 16.0, SIZE, **options)


def test_top_view(tmp_path):
    draw_top_view(path(), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (900, 984)
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 200


def test_top_view_of_a_single_pose_and_of_a_pure_turn(tmp_path):
    draw_top_view(Trajectory(np.eye(4)[None]), tmp_path / "a.png")
    draw_top_view(path("l-16"), tmp_path / "b.png")
    assert (tmp_path / "a.png").stat().st_size > 5000 and (tmp_path / "b.png").stat().st_size > 5000


def test_path_over_the_first_frame_lies_where_the_camera_goes(tmp_path):
    """Turning right must put ink into the right half and none into the left, above the caption's row."""
    grey = Image.new("RGB", (320, 176), (128, 128, 128))
    for key, inked, clean in (("l", slice(540, 760), slice(0, 440)), ("j", slice(200, 420), slice(520, 960))):
        draw_over_image(path(f"w{key}-12,w-90"), grey, tmp_path / "a.png")
        with Image.open(tmp_path / "a.png") as picture:
            assert picture.size == (960, 528)
            pixels = np.asarray(picture.convert("RGB")).astype(int)[60:330]
        ink = np.abs(pixels - 128).max(-1) > 40
        assert ink[:, inked].sum() > 50 and ink[:, clean].sum() == 0


def test_unknown_lens_backwards_and_portrait_pictures_still_draw(tmp_path):
    portrait = Image.new("RGB", (90, 160))
    draw_over_image(Trajectory(action_string_to_c2w("s-20")), portrait, tmp_path / "a.png")
    draw_over_image(path("l-150"), portrait, tmp_path / "b.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size[0] == 960


def test_bad_pictures_and_names_are_refused(tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match="no such picture"):
        open_image(tmp_path / "nowhere.png")
    for name in ("empty.png", "text.png"):
        with pytest.raises(ValueError, match="cannot read the picture"):
            draw_over_image(path(), tmp_path / name, tmp_path / "out.png")
    with pytest.raises(ValueError, match=r"allowed: a name ending in \.png"):
        draw_top_view(path(), tmp_path / "out.gif")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["empty.png", "text.png"]


def test_rotated_photographs_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg", exif=exif)
    assert open_image(tmp_path / "a.jpg").size == (20, 40)

"""First pictures: known sizes of the published crop, EXIF rotation, every mode, damaged files."""

import numpy as np
import pytest
import torch
from camera_control.geometry import crop_intrinsics
from PIL import Image
from sana_wm_core.images import as_rgb, fit, open_picture


def test_intrinsics_still_point_at_the_same_pixel():
    """A bright dot projected with the moved intrinsics must be where it is in the crop."""
    pixels = np.zeros((300, 500, 3), np.uint8)
    pixels[118:123, 208:213] = 255
    before = np.array([400.0, 410.0, 250.0, 150.0])
    ray = ((210.5 - before[2]) / before[0], (120.5 - before[3]) / before[1])
    frame = fit(Image.fromarray(pixels), 96, 160)
    fx, fy, cx, cy = crop_intrinsics(before, frame.source_size, (96, 160))
    bright = np.array(frame.picture, float).sum(-1)
    y, x = np.mgrid[:96, :160] + 0.5
    np.testing.assert_allclose((bright * x).sum() / bright.sum(), ray[0] * fx + cx, atol=0.2)
    np.testing.assert_allclose((bright * y).sum() / bright.sum(), ray[1] * fy + cy, atol=0.2)


def test_tensor_spans_minus_one_to_one():
    picture = Image.fromarray(np.array([[[0, 255, 51]]], np.uint8)).resize((32, 32))
    tensor = fit(picture, 16, 16).tensor()
    assert tensor.shape == (1, 3, 16, 16) and tensor.dtype == torch.float32
    torch.testing.assert_close(tensor[0, :, 0, 0], torch.tensor([-1.0, 1.0, -0.6]))


@pytest.mark.parametrize("source", [(1920, 1080), (1024, 1024), (110, 83), (1, 1), (3, 400)])
def test_any_shape_fits(source):
    assert fit(Image.new("RGB", source), 96, 160).picture.size == (160, 96)


def test_the_picture_equals_diffusers():
    from diffusers.pipelines.sana_wm.cam_utils import resize_and_center_crop

    picture = Image.fromarray(np.random.default_rng(1).integers(0, 255, (83, 110, 3), dtype=np.uint8))
    theirs = resize_and_center_crop(picture, 64, 96)[0]
    np.testing.assert_array_equal(np.array(fit(picture, 64, 96).picture), np.array(theirs))


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_kinds_and_exif_rotation(tmp_path, suffix):
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:, :30] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / f"photo.{suffix}"
    Image.fromarray(pixels).save(path, exif=exif)
    picture = open_picture(path)
    assert picture.size == (40, 60) and picture.mode == "RGB"
    upright = np.array(picture)
    assert upright[:25].mean() > 230 and upright[35:].mean() < 25


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"])
def test_every_mode_becomes_rgb(mode):
    assert as_rgb(Image.new(mode, (8, 8))).mode == "RGB"


def test_sixteen_bit_grey_is_scaled_and_transparency_is_white():
    grey = Image.fromarray(np.full((4, 4), 32768, np.uint16))
    assert abs(int(np.array(as_rgb(grey))[0, 0, 0]) - 127) <= 1
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert (np.array(as_rgb(clear)) == 255).all()


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"not a picture", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_bad_files_are_named(tmp_path, content):
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.png"):
        open_picture(path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="PNG, JPEG or WebP"):
        open_picture(tmp_path / "gone.png")
    with pytest.raises(ValueError, match="folder"):
        open_picture(tmp_path)


def test_every_cut_of_a_picture_is_refused_or_read_whole(tmp_path):
    good = tmp_path / "good.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(good)
    data = good.read_bytes()
    for length in range(0, len(data) - 16, 97):
        path = tmp_path / "cut.png"
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"cut\.png"):
            open_picture(path)

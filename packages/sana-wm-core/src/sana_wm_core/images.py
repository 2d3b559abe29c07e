"""First pictures: opened as people take them, resized and cropped as the model was trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

_KINDS = ("PNG", "JPEG", "WEBP")


@dataclass(frozen=True)
class FirstFrame:
    """A picture fitted to the model's size.

    Attributes:
        picture: The crop, RGB.
        source_size: Width and height of the picture before fitting, after EXIF rotation, pixels.
        resized_size: Width and height after the resize, before the crop.
        offset: Left and top of the crop in the resized picture.
    """

    picture: Image.Image
    source_size: tuple[int, int]
    resized_size: tuple[int, int]
    offset: tuple[int, int]

    def tensor(self) -> Tensor:
        """The crop as (1, 3, H, W) float32 in [-1, 1]."""
        pixels = torch.from_numpy(np.array(self.picture, dtype=np.float32))
        return (pixels / 255.0 * 2.0 - 1.0).permute(2, 0, 1).unsqueeze(0).contiguous()

    def intrinsics(self, source: np.ndarray) -> np.ndarray:
        """Move intrinsics (..., 4) = fx, fy, cx, cy from source pixels to pixels of the crop."""
        scale_x = self.resized_size[0] / self.source_size[0]
        scale_y = self.resized_size[1] / self.source_size[1]
        out = np.array(source, dtype=np.float32)
        out[..., 0] *= scale_x
        out[..., 1] *= scale_y
        out[..., 2] = out[..., 2] * scale_x - self.offset[0]
        out[..., 3] = out[..., 3] * scale_y - self.offset[1]
        return out


def open_picture(path: str | Path) -> Image.Image:
    """Open a photograph or drawing (PNG, JPEG, WebP) upright and as RGB.

    EXIF rotation is applied and transparency is laid over white.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Empty, damaged, or not a picture of a kind above.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such picture; --image takes a PNG, JPEG or WebP file")
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; --image takes a PNG, JPEG or WebP file")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the picture file is empty (0 bytes); take a PNG, JPEG or WebP file")
    try:
        with Image.open(path, formats=_KINDS) as opened:
            picture = ImageOps.exif_transpose(opened)
            picture.load()
    except UnidentifiedImageError as error:
        raise ValueError(f"{path}: not a picture this program reads; take a PNG, JPEG or WebP file") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path}: the picture is too large ({error}); make it smaller first") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ValueError(f"{path}: the picture is damaged ({error}); save it again as PNG or JPEG") from error
    return as_rgb(picture)


def as_rgb(picture: Image.Image) -> Image.Image:
    """Convert a picture of any mode to RGB; transparency is laid over white, 16-bit grey is scaled down."""
    if min(picture.size) < 1:
        raise ValueError(f"the picture has no pixels: {picture.width}x{picture.height}; at least 1x1 is needed")
    if picture.mode.startswith("I;16") or picture.mode in ("I", "F"):
        values = np.array(picture, dtype=np.float32)
        picture = Image.fromarray((values / (65535 if values.max() > 255 else 255) * 255).clip(0, 255).astype(np.uint8))
    if "A" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture.convert("RGB")


def fit(picture: Image.Image, height: int, width: int) -> FirstFrame:
    """Resize a picture to cover height x width, keeping its shape, and crop the centre.

    Reference: inference of SANA-WM (arXiv 2605.15178): Lanczos, sizes rounded half to even, crop offsets rounded down.
    """
    picture = as_rgb(picture)
    source_w, source_h = picture.size
    scale = max(height / source_h, width / source_w)
    resized = (max(width, round(source_w * scale)), max(height, round(source_h * scale)))
    left, top = (resized[0] - width) // 2, (resized[1] - height) // 2
    crop = picture.resize(resized, Image.Resampling.LANCZOS).crop((left, top, left + width, top + height))
    return FirstFrame(crop, (source_w, source_h), resized, (left, top))


def intrinsics_from_fov(fov_deg: float, width: int, height: int) -> np.ndarray:
    """Intrinsics (4,) = fx, fy, cx, cy of a centred pinhole camera with square pixels.

    Args:
        fov_deg: Horizontal field of view, strictly between 25 and 120 degrees.
        width: Picture width in pixels.
        height: Picture height in pixels.

    Raises:
        ValueError: Field of view out of range.
    """
    if not 25 < fov_deg < 120:
        raise ValueError(f"the field of view must be between 25 and 120 degrees, such as 70; got {fov_deg:g}")
    focal = width / (2 * np.tan(np.radians(fov_deg) / 2))
    return np.array([focal, focal, width / 2, height / 2], dtype=np.float32)

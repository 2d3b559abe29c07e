"""First pictures: opened as people take them, resized and cropped as the model was trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from camera_control.geometry import crop_plan
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

_KINDS = ("PNG", "JPEG", "WEBP")


@dataclass(frozen=True)
class FirstFrame:
    """A picture fitted to the model's size.

    Attributes:
        picture: The crop, RGB.
        source_size: Height and width before fitting, pixels.
    """

    picture: Image.Image
    source_size: tuple[int, int]

    def tensor(self) -> Tensor:
        """The crop as (1, 3, H, W) float32 in [-1, 1]."""
        pixels = torch.from_numpy(np.array(self.picture, dtype=np.float32))
        return (pixels / 255.0 * 2.0 - 1.0).permute(2, 0, 1).unsqueeze(0).contiguous()


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

    Reference: inference of SANA-WM (arXiv 2605.15178): Lanczos; camera_control.geometry.crop_plan for the sizes.
    """
    picture = as_rgb(picture)
    source = (picture.height, picture.width)
    (resized_h, resized_w), (top, left) = crop_plan(source, (height, width))
    resized = picture.resize((resized_w, resized_h), Image.Resampling.LANCZOS)
    return FirstFrame(resized.crop((left, top, left + width, top + height)), source)

"""Makes docs/pocket.webp, the looping clip of the README: a generated video with its planned path in a corner.

Run `uv run sana-wm generate` first; then `uv run python runs/readme_clip.py out/output_generated.mp4`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import av
import numpy as np
from camera_control.actions import action_string_to_c2w
from PIL import Image, ImageDraw

SCALE = 4
INSET = 0.3  # of the picture's height


def main(video: Path, out: Path) -> None:
    with av.open(str(video)) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
    inputs = json.loads(video.with_suffix(".json").read_text())["used"]
    c2w = action_string_to_c2w(inputs["action"], inputs["translation_speed"], inputs["rotation_speed_deg"])
    pictures = [paint(frame, c2w[: len(frames)], i) for i, frame in enumerate(frames)]
    pictures += [pictures[-1]] * 8
    temporary = out.with_name(f".{out.name}.{os.getpid()}.webp")
    pictures[0].save(temporary, save_all=True, append_images=pictures[1:], duration=62, loop=0, quality=72, method=4)
    os.replace(temporary, out)
    print(f"{out}: {len(frames)} frames, {out.stat().st_size / 1e3:.0f} kB")


def paint(frame: Image.Image, c2w: np.ndarray, now: int) -> Image.Image:
    """The frame, enlarged, with the path seen from above: planned in grey, flown in white, the camera as a dot."""
    picture = frame.resize((frame.width * SCALE, frame.height * SCALE), Image.Resampling.LANCZOS).convert("RGBA")
    side = round(picture.height * INSET)
    plate = Image.new("RGBA", (side, side), (20, 24, 32, 150))
    draw = ImageDraw.Draw(plate)
    across, ahead = c2w[:, 0, 3], c2w[:, 2, 3]
    middle = np.array([(across.min() + across.max()) / 2, (ahead.min() + ahead.max()) / 2])
    reach = max(np.ptp(across), np.ptp(ahead), 1e-3)
    points = [
        (side * (0.5 + 0.76 * (x - middle[0]) / reach), side * (0.5 - 0.76 * (z - middle[1]) / reach))
        for x, z in zip(across, ahead, strict=True)
    ]
    draw.line(points, fill=(170, 178, 190, 255), width=3, joint="curve")
    draw.line(points[: now + 1], fill=(255, 255, 255, 255), width=4, joint="curve")
    x, y = points[now]
    look = c2w[now, :3, 2]
    draw.line([(x, y), (x + 16 * look[0], y - 16 * look[2])], fill=(255, 196, 0, 255), width=4)
    draw.ellipse([x - 5, y - 5, x + 5, y + 5], fill=(255, 196, 0, 255))
    picture.alpha_composite(plate, (picture.width - side - 10, 10))
    return picture.convert("RGB")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(__file__).parents[1] / "docs" / "pocket.webp")

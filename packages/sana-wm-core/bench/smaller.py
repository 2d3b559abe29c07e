"""What fewer bits cost: size on disk, how far the pictures move, how differently the camera is answered.

    python packages/sana-wm-core/bench/smaller.py --model pocket
    python packages/sana-wm-core/bench/smaller.py --model out/tiny/SANA-WM_bidirectional --size 64x96 --steps 4

Writes a copy in each number format with `shrink`, makes the same clip from the same noise with every copy, and prints
one JSON line each: bytes of all weights and of the first stage's, PSNR against the clip of the model as it is, loss of
the response to the camera (see fidelity), and whether `sana-wm quantize` refuses it by default. Whether a copy
follows its camera as well as before says `sana-wm bench`, with the copies kept by --keep FOLDER.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from sana_wm_core.fidelity import LIMIT
from sana_wm_core.layouts import open_world
from sana_wm_core.pocket import BUNDLED, DEMO
from sana_wm_core.precision import PRECISIONS
from sana_wm_core.shrink import shrink

_FIRST_STAGE = ("transformer", "dit", "sana_dit")
_WEIGHTS = (".safetensors", ".pt")


def main() -> None:
    """Make the copies and the clips, and print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--action", default="w-40,jw-24")
    parser.add_argument("--frames", type=int, default=65)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--size", help="HEIGHTxWIDTH, pixels; the model's own without it")
    parser.add_argument("--keep", type=Path, help="folder for the copies")
    options = parser.parse_args()
    size = [int(part) for part in options.size.split("x")] if options.size else [None, None]
    source = BUNDLED.get(options.model, Path(options.model))

    def clip(model: Path) -> np.ndarray:
        pipeline = open_world(model).pipeline
        picture, prompt = Image.open(DEMO / "picture.png"), (DEMO / "prompt.txt").read_text().strip()
        wanted = {"frames": options.frames, "steps": options.steps, "height": size[0], "width": size[1]}
        return pipeline(picture, prompt, action=options.action, fov_deg=70.0, **wanted).video

    whole = clip(source)
    print(json.dumps({"model": options.model, "precision": "as it is", **weigh(source)}), flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        # The released folders find their text encoder, and some their codec, in the folders beside them.
        for beside in source.resolve().parent.iterdir():
            if beside.is_dir() and beside != source.resolve() and not (folder / beside.name).exists():
                (folder / beside.name).symlink_to(beside)
        for precision in PRECISIONS:
            copy = folder / precision
            _, lost = shrink(source, copy, precision, limit=math.inf)
            row = {"psnr_db": round(psnr(clip(copy), whole), 2), "camera_lost": round(lost, 4)}
            row |= {"refused": lost > LIMIT}
            print(json.dumps({"model": options.model, "precision": precision, **weigh(copy), **row}), flush=True)


def weigh(folder: Path) -> dict[str, float]:
    """Megabytes of the weights of a model folder, and of its first stage's."""
    files = [path for path in folder.rglob("*") if path.suffix in _WEIGHTS]
    first = [path for path in files if path.relative_to(folder).parts[0] in _FIRST_STAGE]
    return {
        "weights_mb": round(sum(path.stat().st_size for path in files) / 2**20, 3),
        "first_stage_mb": round(sum(path.stat().st_size for path in first) / 2**20, 3),
    }


def psnr(video: np.ndarray, reference: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB over all frames but the given first one; 100 where they are equal."""
    error = np.square(video[1:].astype(np.float64) - reference[1:]).mean()
    return 100.0 if error == 0 else 10 * math.log10(255**2 / error)


if __name__ == "__main__":
    sys.exit(main())

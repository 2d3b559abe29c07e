"""Any program as a pose estimator: it gets a folder of frames and writes a camera file."""

from __future__ import annotations

import hashlib
import shlex
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from camera_control.trajectory import Trajectory
from PIL import Image

from wm_bench.estimators import PoseEstimate, PoseRequest, Unavailable

_TIMEOUT_S = 3600


class Command:
    """Options are a command line with {frames} (folder of PNGs), {intrinsics} (.npy) and {out} (.npz to write).

    The program writes camera-to-world c2w (n, 4, 4), one pose a frame, OpenCV axes; rows of NaN are frames it could
    not place. It must be deterministic. Its identity is the command line and the hash of every file named in it.
    """

    id = "command"

    def __init__(self, options: str) -> None:
        if "{out}" not in options or "{frames}" not in options:
            raise ValueError(f"command is {options!r}; allowed: a command line with {{frames}} and {{out}}")
        self._words = shlex.split(options)
        files = [Path(word) for word in self._words if Path(word).is_file()]
        total = hashlib.sha256()
        for file in files:
            total.update(file.read_bytes())
        self.version = options
        self.weights_sha256 = total.hexdigest() if files else "none"

    def estimate(self, request: PoseRequest) -> PoseEstimate:
        """Run the program once."""
        with tempfile.TemporaryDirectory(prefix="wm-bench-command-") as folder:
            root = Path(folder)
            frames, lens, out = root / "frames", root / "intrinsics.npy", root / "poses.npz"
            frames.mkdir()
            for i, frame in enumerate(request.frames):
                Image.fromarray(frame).save(frames / f"{i:05d}.png", compress_level=1)
            np.save(lens, request.intrinsics)
            places = {"{frames}": str(frames), "{intrinsics}": str(lens), "{out}": str(out)}
            words = []
            for word in self._words:
                for key, value in places.items():
                    word = word.replace(key, value)
                words.append(word)
            try:
                done = subprocess.run(words, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
            except FileNotFoundError:
                raise Unavailable(f"no program {words[0]!r}") from None
            except subprocess.TimeoutExpired:
                raise ValueError(f"{words[0]} did not finish within {_TIMEOUT_S} s") from None
            if done.returncode != 0 or not out.is_file():
                last = (done.stderr.strip() or "no message").splitlines()[-1]
                raise ValueError(f"{words[0]} failed with exit code {done.returncode}: {last}")
            return _read(out, len(request.frames))


def _read(path: Path, frames: int) -> PoseEstimate:
    with path.open("rb") as opened, np.load(opened, allow_pickle=False) as archive:
        c2w = np.array(archive["c2w"], dtype=np.float64) if "c2w" in archive else np.zeros((0, 4, 4))
    if c2w.shape != (frames, 4, 4):
        raise ValueError(f"the program wrote poses {c2w.shape}; allowed: ({frames}, 4, 4)")
    placed = np.asarray(np.isfinite(c2w).all(axis=(1, 2)), dtype=np.bool_)
    c2w[~placed] = np.eye(4)
    return PoseEstimate(Trajectory(c2w).c2w, placed)

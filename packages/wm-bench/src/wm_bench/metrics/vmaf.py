"""VMAF to the exact render, by an ffmpeg that has libvmaf; without one it is absent, for nothing else computes it."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from wm_bench.estimators import Unavailable
from wm_bench.splits.model import BenchScene, TruthOf
from wm_bench.video import VideoInfo, decode, write_lossless

VERSION = "vmaf-1"
_BATCH = 64


class Vmaf:
    """Mean VMAF of a clip, in 0 to 100, with the model built into libvmaf.

    Both videos are brought to at most 144 lines, every frame is compared, and neither is compressed on the way.
    """

    id = "ffmpeg-libvmaf"

    def __init__(self, ffmpeg: Path | None) -> None:
        if ffmpeg is None:
            raise Unavailable("needs an ffmpeg with libvmaf; give --ffmpeg FILE")
        self._ffmpeg = str(ffmpeg)
        if "libvmaf" not in self._ask("-hide_banner", "-filters"):
            raise Unavailable(f"{ffmpeg} has no libvmaf filter")
        self.version = self._ask("-version").splitlines()[0].strip()

    def _ask(self, *words: str, folder: Path | None = None) -> str:
        try:
            done = subprocess.run([self._ffmpeg, *words], capture_output=True, text=True, check=False, cwd=folder)
        except OSError as error:
            raise Unavailable(f"{self._ffmpeg} cannot be run ({error.strerror})") from None
        if done.returncode != 0:
            last = (done.stderr.strip() or "no message").splitlines()[-1]
            raise Unavailable(f"{self._ffmpeg} failed with exit code {done.returncode}: {last}")
        return done.stdout

    def __call__(self, video: VideoInfo, scene: BenchScene, truth: TruthOf, size: tuple[int, int]) -> float:
        """Score a clip against the render at the instants of its own frames. `size` is (height, width)."""
        times = np.minimum(video.times_s[video.times_s <= scene.duration_s + 1e-6], scene.duration_s)
        shown = [np.asarray(Image.fromarray(f).resize(size[::-1], Image.Resampling.BOX)) for f in decode(video.path)]
        true = [truth(scene, times[i : i + _BATCH], size).rgb for i in range(0, len(times), _BATCH)]
        with tempfile.TemporaryDirectory(prefix="wm-bench-vmaf-") as place:
            folder = Path(place)
            write_lossless(folder / "shown.mkv", np.stack(shown[: len(times)]), 16.0)
            write_lossless(folder / "true.mkv", np.concatenate(true), 16.0)
            compare = "[0:v][1:v]libvmaf=log_fmt=json:log_path=vmaf.json:n_threads=1"
            self._ask(
                "-hide_banner", "-nostdin", "-i", "shown.mkv", "-i", "true.mkv", "-sws_flags", "bitexact+accurate_rnd",
                "-lavfi", compare, "-f", "null", "-", folder=folder,
            )  # fmt: skip
            found = json.loads((folder / "vmaf.json").read_text(encoding="utf-8"))
        return float(found["pooled_metrics"]["vmaf"]["mean"])

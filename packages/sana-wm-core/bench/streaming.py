"""How soon a streamed world shows its first frame, how fast it goes on, and whether its memory grows.

    python packages/sana-wm-core/bench/streaming.py --frames 200
    python packages/sana-wm-core/bench/streaming.py --frames 200,2000 --steps 1000,0

Prints one JSON line: seconds from process start to the first chunk in the file, frames per second after it, peak
resident memory, bytes of the world's state. Several lengths are streamed in processes of their own, and a last line
gives the largest peak over the smallest; steps change the speed, not the memory.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BEGAN_S = time.time()


def main() -> None:
    """Stream a world and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--frames", default="200", help="raw frames; several with commas")
    parser.add_argument("--steps", default="1000,960,889,727,0")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--fov", type=float, default=70.0)
    options = parser.parse_args()
    lengths = [int(part) for part in options.frames.split(",")]
    if len(lengths) > 1:
        compare(lengths)
        return

    import torch
    from PIL import Image
    from sana_wm_core.layouts import open_world
    from sana_wm_core.pocket import DEMO
    from sana_wm_core.sampling.student import ChunkSampler, parse_steps
    from sana_wm_core.streaming import Session
    from sana_wm_core.video import GrowingVideo

    pipeline = open_world(options.model, device=options.device).pipeline
    sampler = ChunkSampler(parse_steps(options.steps))
    picture = Image.open(DEMO / "picture.png")
    prompt = (DEMO / "prompt.txt").read_text().strip()
    session = Session.start(pipeline, picture, prompt, sampler=sampler, fov_deg=options.fov)
    rows = session.state.track.parse(f"w-{max(lengths[0], 2 * session.chunk_frames)}")
    done, first_s, first_frames, state = 0, 0.0, 0, 0
    with tempfile.TemporaryDirectory() as folder, GrowingVideo(Path(folder) / "stream.mp4") as video:
        for piece in session.play(rows):
            video.append(piece.video)
            done += len(piece.video)
            if not first_s:
                first_s, first_frames = time.time() - _process_start_s(), done
                since_s = time.monotonic()
        steady_s = time.monotonic() - since_s
        state = session.state.bytes
    row = {
        "model": options.model,
        "frames": done,
        "steps": options.steps,
        "threads": torch.get_num_threads(),
        "first_chunk_s": round(first_s, 2),
        "frames_per_s": round((done - first_frames) / steady_s, 2),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "state_mb": round(state / 2**20, 2),
    }
    print(json.dumps(row))


def compare(lengths: list[int]) -> None:
    """Stream each length in a process of its own and print how much more memory the hungriest took."""
    others = [part for part in sys.argv[1:] if not part.startswith("--frames=")]
    if "--frames" in others:
        del others[others.index("--frames") : others.index("--frames") + 2]
    peaks = []
    for frames in lengths:
        command = [sys.executable, __file__, *others, "--frames", str(frames)]
        line = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip().splitlines()[-1]
        print(line, flush=True)
        peaks.append(json.loads(line)["peak_rss_mb"])
    print(json.dumps({"frames": lengths, "peak_ratio": round(max(peaks) / min(peaks), 4)}))


def _process_start_s() -> float:
    """When this process began, seconds since 1970; the import of this file where the system does not say."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        uptime_s = float(Path("/proc/uptime").read_text().split()[0])
        return time.time() - uptime_s + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return BEGAN_S


if __name__ == "__main__":
    sys.exit(main())

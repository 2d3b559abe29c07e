"""The loop closes, through the public command line: a known path, a generated video of it, its annotation, the error.

    python packages/pose-annotation/bench/closed_loop.py --out out/loop
    python packages/pose-annotation/bench/closed_loop.py --out out/loop --action "w-32,lw-32" --seed 3

Prints each command and one JSON line with what `sana-wm annotate eval` says. The error is the generator's and the
annotator's together: on exact renders of procedural rooms the annotator alone is within a few tenths of a degree.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np


def run(*arguments: object) -> str:
    """One sana-wm command; its standard output. Stops the script when it fails."""
    command = [str(Path(sys.executable).with_name("sana-wm")), *map(str, arguments)]
    print("$ sana-wm " + shlex.join(command[1:]), flush=True)
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr or done.stdout)
    return done.stdout


def main() -> None:
    """Plan, generate, annotate, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--action", default="w-32,jw-32")
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fov", type=float, default=70.0)
    options = parser.parse_args()
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    run("camera", "plan", options.action, "--out", out / "path.npy", "--translation-speed", 0.05)
    run(
        "generate", "--model", options.model, "--camera", out / "path.npy", "--fov", options.fov,
        "--seed", options.seed, "--output_dir", out / "world",
    )  # fmt: skip
    record = json.loads(next((out / "world").glob("*.json")).read_text(encoding="utf-8"))
    lens = ",".join(str(value) for value in record["used"]["intrinsics_px_first_frame"])
    video = next((out / "world").glob("*_generated.mp4"))
    row = json.loads(run("annotate", video, "--out", out / "clips", "--intrinsics", lens, "--json").splitlines()[-1])
    results = []
    for clip in row["clips"]:
        found = np.load(out / "clips" / "poses" / f"{clip}.npy")
        about = json.loads((out / "clips" / "records" / f"{clip}.json").read_text(encoding="utf-8"))
        first = about["video"]["first_frame"]
        # The part of the path that this clip shows.
        np.save(out / "asked.npy", np.load(out / "path.npy")[first : first + len(found)])
        said = run("annotate", "eval", out / "clips" / "poses" / f"{clip}.npy", out / "asked.npy", "--json")
        results.append({"clip": clip, "frames": len(found), "flags": about["flags"], **json.loads(said)})
    print(json.dumps({"model": options.model, "action": options.action, "seed": options.seed, "clips": results}))


if __name__ == "__main__":
    main()

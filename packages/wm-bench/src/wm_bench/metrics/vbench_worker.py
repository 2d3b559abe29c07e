"""Runs inside another environment: scores videos with the vbench package there and prints one JSON object.

Stand-alone on purpose: it is started by that environment's Python, 3.8 or later, and imports nothing of this package.
Reads a job from stdin: {"videos": {name: path}, "prompts": {name: text}, "dimensions": [...]}.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any


def main() -> None:
    """Score every video of the job in every dimension."""
    job = json.load(sys.stdin)
    # What VBench prints must not end up in the answer.
    with contextlib.redirect_stdout(sys.stderr):
        answer = run(job)
    json.dump(answer, sys.stdout)


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Values {dimension: {name: value}}, VBench's version and the hash of its weights folder."""
    # By name: both belong to the environment this runs in, not to the package it comes with.
    torch, vbench = importlib.import_module("torch"), importlib.import_module("vbench")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    info = Path(str(vbench.__file__)).parent / "VBench_full_info.json"
    values: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="wm-bench-vbench-") as folder:
        root = Path(folder)
        videos, prompts = root / "videos", {}
        videos.mkdir()
        names = {}
        for name, path in job["videos"].items():
            link = videos / f"{name}.mp4"
            link.symlink_to(path)
            names[link.name] = name
            prompts[str(link)] = job["prompts"][name]
        scorer = vbench.VBench(device, str(info), str(root))
        for dimension in job["dimensions"]:
            scorer.evaluate(
                videos_path=str(videos), name=dimension, prompt_list=prompts, dimension_list=[dimension],
                mode="custom_input",
            )  # fmt: skip
            found = json.loads((root / f"{dimension}_eval_results.json").read_text())[dimension]
            # Imaging quality of one video is in 0..100; VBench divides only its mean.
            over = 100.0 if dimension == "imaging_quality" else 1.0
            values[dimension] = {
                names[Path(entry["video_path"]).name]: float(entry["video_results"]) / over for entry in found[1]
            }
    return {"version": version("vbench"), "weights_sha256": weights_hash(), "values": values}


def weights_hash() -> str:
    """SHA-256 over names and contents of everything in VBench's cache folder; "none" when it is empty."""
    folder = Path(os.environ.get("VBENCH_CACHE_DIR", Path.home() / ".cache" / "vbench"))
    files = sorted(p for p in folder.rglob("*") if p.is_file()) if folder.is_dir() else []
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.relative_to(folder)}\0".encode())
        part = hashlib.sha256()
        with file.open("rb") as opened:
            while block := opened.read(1 << 20):
                part.update(block)
        total.update(part.digest())
    return total.hexdigest() if files else "none"


if __name__ == "__main__":
    main()

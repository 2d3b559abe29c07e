"""Time frame_gdn and frame_gdn_camera beside diffusers' functions on the same inputs, in one run.

    python packages/gdn-kernels/bench/frame_gdn.py [--size long] [--threads 2] [--repeats 5]

Both sides do both directions in time. diffusers' functions run forward only, so they are called twice, on the inputs
and on the flipped and shifted ones; the flipping itself is timed, since its processor does the same. Nothing is
reported unless the results agree first. Peak memory is measured in a child process per side.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from gdn_kernels import frame_gdn, frame_gdn_camera
from gdn_kernels.frame_gdn.reference import rotate
from sizes import SIZES, Size
from torch import Tensor

BRANCHES = ("main", "camera")
Call = Callable[[], Tensor]


def calls(size: Size, branch: str) -> dict[str, Call]:
    """Zero-argument calls of both sides, each giving (b, n, h, d)."""
    from diffusers.models.transformers import transformer_sana_wm as peer

    h, t, s, d = size
    n = t * s
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, n, h, d, generator=g) for _ in range(3))
    q, k = q.relu(), k.relu() / (d * s) ** 0.5
    beta, log_gamma = torch.rand(1, h, t, s, generator=g), -0.1 * torch.rand(1, h, t, generator=g)
    angle = torch.arange(n)[:, None] * torch.logspace(0, -3, d // 2)
    rope = (angle.cos(), angle.sin())
    gamma = log_gamma.exp()
    columns = [x.permute(0, 2, 3, 1).contiguous() for x in (q, k, v)]
    turned = [rotate(x, rope).permute(0, 2, 3, 1).contiguous() for x in (q, k)]

    def flip(x: Tensor, shift: bool) -> Tensor:
        frames = x.unflatten(-1, (t, s)).flip(-2)
        if shift:
            frames = torch.cat([torch.zeros_like(frames[..., :1, :]), frames[..., :-1, :]], -2)
        return frames.flatten(-2)

    def gates_back() -> tuple[Tensor, Tensor]:
        late = torch.cat([torch.zeros_like(beta[:, :, :1]), beta.flip(2)[:, :, :-1]], 2)
        return late, torch.cat([torch.ones_like(gamma[..., :1]), gamma.flip(-1)[..., :-1]], -1)

    def peer_main() -> Tensor:
        ahead = peer.torch_chunk_sana_gdn(*columns, *turned, beta, gamma, eps=1e-8, return_components=True)
        cq, ck, cv = columns
        back_in = (flip(cq, False), flip(ck, True), flip(cv, True), flip(turned[0], False), flip(turned[1], True))
        back = peer.torch_chunk_sana_gdn(*back_in, *gates_back(), eps=1e-8, return_components=True)
        num, den = (a + flip(b, False) for a, b in zip(ahead[:2], back[:2], strict=True))
        return (num / (den + 1e-8)).permute(0, 3, 1, 2)

    def peer_camera() -> Tensor:
        cq, ck, cv = columns
        ahead = peer.torch_chunk_cam_single_path_delta_rule(cq, ck, cv, beta, gamma)
        back = peer.torch_chunk_cam_single_path_delta_rule(
            flip(cq, False), flip(ck, True), flip(cv, True), *gates_back()
        )
        return (ahead + flip(back, False)).permute(0, 3, 1, 2)

    if branch == "main":
        # Rotation is inside our call; diffusers gets its rotated copies for free.
        return {"diffusers": peer_main, "ours": lambda: frame_gdn(q, k, v, beta, log_gamma, rope=rope)}
    return {"diffusers": peer_camera, "ours": lambda: frame_gdn_camera(q, k, v, beta, log_gamma)}


def memory_mb(field: str) -> float:
    """A line of this process's status file, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def peak_mb(size: str, branch: str, side: str, threads: int) -> float:
    """Memory a call adds on top of its inputs, in a fresh process."""
    command = [sys.executable, __file__, "--peak", side, "--size", size, "--branch", branch, "--threads", str(threads)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def main() -> None:
    """Check, time, print."""
    parser = argparse.ArgumentParser(description="frame_gdn beside diffusers")
    parser.add_argument("--size", choices=[*SIZES, "all"], default="all")
    parser.add_argument("--branch", choices=BRANCHES)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peak", choices=["ours", "diffusers"], help="internal: print the peak of one side")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    if args.peak:
        call = calls(SIZES[args.size], args.branch)[args.peak]
        # 5 resets the high-water mark, so that making the inputs does not count (Linux only).
        Path("/proc/self/clear_refs").write_text("5")
        before = memory_mb("VmRSS")
        call()
        print(memory_mb("VmHWM") - before)
        return
    for name in SIZES if args.size == "all" else [args.size]:
        for branch in BRANCHES:
            sides = calls(SIZES[name], branch)
            results = {side: call() for side, call in sides.items()}
            error = (results["ours"] - results["diffusers"]).norm() / results["diffusers"].norm()
            if not error < 5e-6:
                sys.exit(f"{name} {branch}: results differ by {error:.1e}; nothing is reported")
            times: dict[str, list[float]] = {side: [] for side in sides}
            for _ in range(args.repeats):
                for side, call in sides.items():
                    start = time.perf_counter()
                    call()
                    times[side].append(1e3 * (time.perf_counter() - start))
            row: dict[str, object] = {"size": name, "branch": branch, "threads": args.threads, "error": float(error)}
            for side, ms in times.items():
                row[f"{side}_ms"] = round(statistics.median(ms), 2)
                row[f"{side}_spread_ms"] = round(max(ms) - min(ms), 2)
                row[f"{side}_peak_mb"] = round(peak_mb(name, branch, side, args.threads), 1)
            row["ratio"] = round(statistics.median(times["diffusers"]) / statistics.median(times["ours"]), 2)
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()

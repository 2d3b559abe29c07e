"""Time the short temporal filter beside diffusers' module on a CPU, forward and backward, on the same inputs.

    python packages/gdn-kernels/bench/short_conv.py [--size tiny | quarter | ... | all] [--threads 2] [--repeats 9]

Nothing is reported unless results and gradients agree first. One JSON line a size; the sides take turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import torch
from diffusers.models.transformers.transformer_sana_wm import SanaWMTemporalShortConvolution
from gdn_kernels import short_conv
from sizes import SIZES, Size
from torch import Tensor

TAPS = 4


def sides(size: Size) -> tuple[dict[str, Callable[[], Tensor]], dict[str, Sequence[Tensor]]]:
    """For each side its forward, and the tensors it has gradients for."""
    g = torch.Generator().manual_seed(0)
    channels = size.heads * size.width
    module = SanaWMTemporalShortConvolution(channels, TAPS)
    module.weight.data.normal_(generator=g)
    x, theirs = (torch.randn(1, size.frames * size.tokens, channels, generator=g).requires_grad_() for _ in range(2))
    theirs.data.copy_(x.data)
    weight = module.weight.detach().clone().requires_grad_()
    calls: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: short_conv(x, weight, size.frames),
        "diffusers": lambda: module(theirs, size.frames),
    }
    return calls, {"ours": (x, weight), "diffusers": (theirs, module.weight)}


def compare(name: str, repeats: int) -> dict[str, object]:
    """Agreement, then medians of forward (without gradients) and backward."""
    calls, leaves = sides(SIZES[name])
    results = {side: call() for side, call in calls.items()}
    along = torch.randn(results["ours"].shape, generator=torch.Generator().manual_seed(1))
    found = {side: [out, *torch.autograd.grad(out, leaves[side], along)] for side, out in results.items()}
    pairs = zip(*(found[side] for side in ("ours", "diffusers")), strict=True)
    errors = [float((a.detach() - b.detach()).norm() / b.detach().norm()) for a, b in pairs]
    if not max(errors) < 1e-5:
        sys.exit(f"{name}: results differ by {max(errors):.1e}; nothing is reported")
    times: dict[str, list[float]] = {f"{side}_{part}": [] for side in calls for part in ("forward", "backward")}
    for _ in range(repeats):
        for side, call in calls.items():
            with torch.no_grad():
                start = time.perf_counter()
                call()
                times[f"{side}_forward"].append(time.perf_counter() - start)
            out = call()
            start = time.perf_counter()
            torch.autograd.grad(out, leaves[side], along)
            times[f"{side}_backward"].append(time.perf_counter() - start)
    row: dict[str, object] = {"size": name, "threads": torch.get_num_threads(), "error": max(errors)}
    middles = {key: 1e3 * statistics.median(took) for key, took in times.items()}
    row |= {f"{key}_ms": round(ms, 3) for key, ms in middles.items()}
    row |= {f"{key}_spread_ms": round(1e3 * (max(took) - min(took)), 3) for key, took in times.items()}
    for part in ("forward", "backward"):
        row[f"{part}_ratio"] = round(middles[f"diffusers_{part}"] / middles[f"ours_{part}"], 2)
    return row


def main() -> None:
    """Check, time, print."""
    parser = argparse.ArgumentParser(description="short_conv beside diffusers")
    parser.add_argument("--size", choices=[*SIZES, "all"], default="tiny")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for name in SIZES if args.size == "all" else [args.size]:
        print(json.dumps(compare(name, args.repeats)), flush=True)


if __name__ == "__main__":
    main()

"""Time frame_gdn and frame_gdn_camera beside diffusers' functions on a CPU, on the same inputs, in one run.

    python packages/gdn-kernels/bench/frame_gdn.py [--size tiny | ... | all] [--backward] [--threads 2] [--in-a-row]

Both sides do both directions in time. With --backward the gradients of q, k, v, beta and log gamma are timed, without
the forward that precedes them: closed form on our side, autograd through the forward on the other. Nothing is reported
unless the results agree first. Before every call on a large clip the heap is trimmed: the C library hands memory back
to the system at some later free, and would do so inside the other side's clock. Every call then meets fresh pages, as
a first one does. With --in-a-row one side is timed after the other, memory and caches warm, and its best call counts:
the measurement of kernels.md. Peak memory is measured in a child process per side.

floor_ms is what the least arithmetic of kernels.md section 2 takes at the rate of one large matrix product, measured
beside it; no ratio can exceed diffusers_ms / floor_ms on the machine of the run. wanted is the ratio to reach: that
of kernels.md section 4, and three times for a backward.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from peer import BRANCHES, Inputs, diffusers_call, inputs, ours
from sizes import SIZES, WANTED, Size
from torch import Tensor

SIDES = ("diffusers", "ours")
Call = Callable[[], Sequence[Tensor]]
WARM_UP = Size(1, 2, 8, 16)
TRIM_FROM = 1 << 20  # elements of a token tensor


def forward_call(side: str, x: Inputs, branch: str) -> Call:
    """Results without gradients."""
    run = diffusers_call(x, branch) if side == "diffusers" else lambda: ours(x, branch)

    def call() -> Sequence[Tensor]:
        with torch.no_grad():
            return [run()]

    return call


def backward_call(side: str, x: Inputs, branch: str) -> Callable[[], Call]:
    """Something that runs the forward and returns the call to be timed, which gives five gradients."""
    weights = torch.randn(x.q.shape, generator=torch.Generator().manual_seed(1))

    def prepare() -> Call:
        leaves = Inputs(*(y.detach().requires_grad_() for y in x.leaves), x.rope)
        out = diffusers_call(leaves, branch)() if side == "diffusers" else ours(leaves, branch)
        return lambda: torch.autograd.grad(out, leaves.leaves, weights)

    return prepare


def prepared(side: str, size: Size, branch: str, backward: bool) -> Callable[[], Call]:
    """For one side, what to run before the clock starts; it returns what to run while it does."""
    x = inputs(size)
    if backward:
        return backward_call(side, x, branch)
    call = forward_call(side, x, branch)
    return lambda: call


def trim() -> None:
    """Hand freed memory back to the system now (glibc; nothing elsewhere)."""
    give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if give_back is not None:
        give_back(0)


def memory_mb(field: str) -> float:
    """A line of this process's status file, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def peak_mb(size: str, branch: str, side: str, args: argparse.Namespace) -> float:
    """Memory a call adds on top of its inputs (and of its forward, for --backward), in a fresh process."""
    command = [sys.executable, __file__, "--peak", side, "--size", size, "--branch", branch]
    command += ["--threads", str(args.threads), *(["--backward"] if args.backward else [])]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def least_flops(size: Size, backward: bool) -> float:
    """Operations of the matrix products alone, of either branch: the denominator needs products with vectors only.

    Forward, a frame: P (symmetric: three of four half-blocks), A and the answers; two d x d products to scan both ways.
    Backward: five products with the tokens; two adjoint scans and the gradient of P, which again is two products.
    """
    h, t, s, d = size
    tokens, square = 2 * h * t * s * d**2, 2 * h * t * d**3
    return 5 * tokens + 4 * square if backward else 2.75 * tokens + 2 * square


def product_rate(side: int = 2048) -> float:
    """Operations a millisecond of one large float32 matrix product, the best of five."""
    a, b = torch.randn(2, side, side)
    out = torch.empty(side, side)

    def once() -> float:
        start = time.perf_counter()
        torch.mm(a, b, out=out)
        return 1e3 * (time.perf_counter() - start)

    return 2 * side**3 / min(once() for _ in range(5))


def compare(size: str, branch: str, args: argparse.Namespace) -> dict[str, object]:
    """One row: agreement, then medians and spreads."""
    sides = {side: prepared(side, SIZES[size], branch, args.backward) for side in SIDES}
    results = {side: prepare()() for side, prepare in sides.items()}
    errors = [float((a - b).norm() / b.norm()) for a, b in zip(results["ours"], results["diffusers"], strict=True)]
    limit = 2e-5 if args.backward else 5e-6
    if not max(errors) < limit:
        sys.exit(f"{size} {branch}: results differ by {max(errors):.1e}; nothing is reported")
    del results
    times: dict[str, list[float]] = {side: [] for side in sides}
    turns = [side for side in sides for _ in range(args.repeats)] if args.in_a_row else [*sides] * args.repeats
    for side in turns:
        call = sides[side]()
        if math.prod(SIZES[size]) > TRIM_FROM and not args.in_a_row:
            trim()
        start = time.perf_counter()
        result = call()
        times[side].append(1e3 * (time.perf_counter() - start))
        del result
    typical = min if args.in_a_row else statistics.median
    row: dict[str, object] = {
        "size": size,
        "branch": branch,
        "pass": "backward" if args.backward else "forward",
        "threads": args.threads,
        "error": max(errors),
    }
    for side, ms in times.items():
        row[f"{side}_ms"] = round(typical(ms), 2)
        row[f"{side}_spread_ms"] = round(max(ms) - min(ms), 2)
        if not args.no_peak:
            row[f"{side}_peak_mb"] = round(peak_mb(size, branch, side, args), 1)
    row["floor_ms"] = round(least_flops(SIZES[size], args.backward) / product_rate(), 2)
    wanted = 3.0 if args.backward else dict(enumerate(WANTED.get((size, branch), ()), 1)).get(args.threads)
    row["ratio"] = round(typical(times["diffusers"]) / typical(times["ours"]), 2)
    if wanted is not None:
        row["wanted"] = wanted
    return row


def main(argv: Sequence[str] | None = None) -> None:
    """Check, time, print."""
    parser = argparse.ArgumentParser(description="frame_gdn beside diffusers")
    parser.add_argument("--size", choices=[*SIZES, "all"], default="tiny")
    parser.add_argument("--branch", choices=BRANCHES)
    parser.add_argument("--backward", action="store_true", help="time the gradients instead of the forward")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--in-a-row", action="store_true", help="one side after the other, the best of its calls")
    parser.add_argument("--no-peak", action="store_true", help="leave peak memory out, which needs child processes")
    parser.add_argument("--peak", choices=SIDES, help="internal: print the peak of one side")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    if args.peak:
        call = prepared(args.peak, SIZES[args.size], args.branch, args.backward)()
        # What a first call loads (code, thread pools, kernels of the BLAS) is 4 to 5 MB, and no part of the method.
        prepared(args.peak, WARM_UP, args.branch, args.backward)()()
        # 5 resets the high-water mark, so that making the inputs does not count (Linux only).
        Path("/proc/self/clear_refs").write_text("5")
        before = memory_mb("VmRSS")
        call()
        print(memory_mb("VmHWM") - before)
        return
    for size in SIZES if args.size == "all" else [args.size]:
        for branch in [args.branch] if args.branch else BRANCHES:
            print(json.dumps(compare(size, branch, args)), flush=True)


if __name__ == "__main__":
    main()

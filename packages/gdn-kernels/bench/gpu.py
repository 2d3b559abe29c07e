"""Check, then time, the kernels on the GPU of this machine; every result is one JSON line.

    python packages/gdn-kernels/bench/gpu.py [--size chunk clip-20s clip-60s] [--batch 1 2] [--dtype bf16 fp32] [--tune]

First the machine's own ceilings (a copy, a matrix product), then agreement with float64, then medians of event times:
each phase, forward, backward, the composition of context parallel, a streaming chunk under a CUDA graph; beside them
the floor (bytes that must move over the measured copy speed), diffusers' functions, and flash-linear-attention's
token-wise kernel where it is installed, as context: it computes another function. --tune tries other launch table
entries instead and prints the fastest. Without a GPU the same script runs the torch form at the tiny size, to test it.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

import torch
from gdn_kernels import frame_gdn
from gdn_kernels.backend import choose, phases
from gdn_kernels.frame_gdn import scan
from gdn_kernels.frame_gdn.parts import Summary
from peer import BRANCHES, Inputs, diffusers_call, inputs, ours
from sizes import GPU_SIZES, Size

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
BUDGETS = {"bf16": 5e-3, "fp32": 1e-6}  # norm of the error over the norm; gradients may have twice that
CANDIDATES = list(product((16, 32, 64, 128), (4, 8), (1, 2, 3)))
RUNS = 4  # processes whose maps the composition joins
Row = dict[str, Any]


def milliseconds(call: Callable[[], object], repeats: int) -> float:
    """Median of single calls after a warm-up, by events on a GPU."""
    call()
    if not torch.cuda.is_available():
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            call()
            times.append(1e3 * (time.perf_counter() - start))
        return statistics.median(times)
    for _ in range(3):
        call()
    pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
    for before, after in pairs:
        before.record()
        call()
        after.record()
    torch.cuda.synchronize()
    return statistics.median(before.elapsed_time(after) for before, after in pairs)


def machine(device: str) -> Row:
    """What ran, and where."""
    import triton

    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    row = {"commit": commit.stdout.strip(), "torch": torch.__version__, "triton": triton.__version__}
    if device == "cpu":
        return row | {"device": platform.processor() or platform.machine()}
    query = ["nvidia-smi", "--query-gpu=driver_version,clocks.sm,clocks.mem", "--format=csv,noheader"]
    driver, sm, memory = (
        subprocess.run(query, capture_output=True, text=True, check=True).stdout.split("\n")[0].split(",")
    )
    clocks = {"driver": driver.strip(), "sm_clock": sm.strip(), "memory_clock": memory.strip()}
    return row | {"device": torch.cuda.get_device_name()} | clocks


def ceilings(device: str, repeats: int) -> Row:
    """Speed of a large copy and of a large bfloat16 product (float32 on a CPU)."""
    elements, width = (1 << 30, 8192) if device == "cuda" else (1 << 22, 512)
    source = torch.ones(elements, dtype=torch.bfloat16, device=device)
    target = torch.empty_like(source)
    copy = milliseconds(lambda: target.copy_(source), repeats)
    matrix = torch.ones(width, width, device=device, dtype=torch.bfloat16 if device == "cuda" else torch.float32)
    multiply = milliseconds(lambda: matrix @ matrix, repeats)
    return {"copy_tb_s": 4 * elements / copy / 1e9, "product_tflop_s": 2 * width**3 / multiply / 1e9}


def floors_ms(size: Size, batch: int, dtype: str, copy_tb_s: float) -> Row:
    """Time to move each phase's inputs and outputs once, for the main branch."""
    h, t, s, d = size
    element = 2 if dtype == "bf16" else 4
    tokens, matrix = batch * h * t * s * d * element, batch * h * t * d * d * element
    moved = {
        "summary": 2 * tokens + 3 * matrix,
        "scan": 2 * 2 * matrix + 3 * matrix,
        "readout": 2 * tokens + 2 * matrix,
    }
    moved["backward"] = (4 * tokens + 3 * matrix) + 7 * matrix + (4 * tokens + 4 * matrix)
    return {name: size_bytes / copy_tb_s / 1e9 for name, size_bytes in moved.items()}


def agreement(device: str, dtype: str) -> Row:
    """Largest errors of results and gradients against float64 at the tiny size; exits above the budget."""
    found: Row = {}
    x = inputs(GPU_SIZES["tiny"], 2, device, DTYPES[dtype])
    for branch in BRANCHES:
        sides = []
        for leaves in (x, Inputs(*(y.double() for y in x.leaves), tuple(y.double() for y in x.rope))):
            given = Inputs(*(y.detach().requires_grad_() for y in leaves.leaves), leaves.rope)
            out = ours(given, branch)
            weights = (
                torch.linspace(-1, 1, out.numel(), device=device, dtype=torch.float64).view(out.shape).to(out.dtype)
            )
            sides.append([out.detach(), *torch.autograd.grad(out, given.leaves, weights)])
        errors = [float((a.double() - b).norm() / b.norm()) for a, b in zip(*sides, strict=True)]
        found[f"{branch}_error"], found[f"{branch}_gradient_error"] = errors[0], max(errors[1:])
        if not (errors[0] < BUDGETS[dtype] and max(errors[1:]) < 2 * BUDGETS[dtype]):
            sys.exit(f"{branch} {dtype}: errors {errors} are above {BUDGETS[dtype]}; nothing is timed")
    return found


def timings(x: Inputs, size: Size, repeats: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """Named calls to be timed."""
    run = phases(choose("auto", x.q, size.width))
    with torch.no_grad():
        summary = run.summary(x.k, x.v, x.beta, x.rope, True)
        memories, _ = run.scan(summary, x.log_gamma, None)
        length = -(-size.frames // RUNS)
        cuts = [slice(a, a + length) for a in range(0, size.frames, length)]
        parts = [Summary(*(y if y is None else y[:, :, at].contiguous() for y in summary)) for at in cuts]
        runs = [run.composite(p, x.log_gamma[:, :, at], None) for p, at in zip(parts, cuts, strict=True)]
    yield "summary", lambda: run.summary(x.k, x.v, x.beta, x.rope, True)
    yield "scan", lambda: run.scan(summary, x.log_gamma, None)
    yield "readout", lambda: run.readout(x.q, memories, x.rope, 1e-8)
    yield "composite of a run", lambda: run.composite(parts[0], x.log_gamma[:, :, cuts[0]], None)
    yield "composition", lambda: scan.compose_prefix(runs, len(runs) - 1)
    for branch in BRANCHES:
        yield f"{branch} forward", lambda branch=branch: ours(x, branch)
        leaves = Inputs(*(y.detach().requires_grad_() for y in x.leaves), x.rope)
        out = ours(leaves, branch)
        weights = torch.ones_like(out)

        def gradients(out: torch.Tensor = out, leaves: Inputs = leaves, weights: torch.Tensor = weights) -> object:
            return torch.autograd.grad(out, leaves.leaves, weights, retain_graph=True)

        yield f"{branch} backward", gradients
        del out, leaves, weights


def streaming(x: Inputs) -> Callable[[], object]:
    """A chunk after a state; captured in a CUDA graph where there is one."""
    with torch.no_grad():
        _, state = frame_gdn(*x.leaves, rope=x.rope, output_final_state=True)

        def step() -> object:
            with torch.no_grad():
                return frame_gdn(*x.leaves, rope=x.rope, initial_state=state, output_final_state=True)

        if x.q.device.type == "cpu":
            return step
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            step()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        return graph.replay


def token_wise(x: Inputs) -> Callable[[], object] | None:
    """flash-linear-attention's chunked gated delta rule on the same shapes; every token there is a step of its own."""
    try:
        from fla.ops.gated_delta_rule import chunk_gated_delta_rule
    except ImportError:
        return None
    if x.q.dtype != torch.bfloat16:
        return None
    beta = x.beta.flatten(2).transpose(1, 2).to(x.q.dtype)
    g = x.log_gamma[..., None].expand_as(x.beta).flatten(2).transpose(1, 2) / x.beta.shape[-1]
    return lambda: chunk_gated_delta_rule(x.q, x.k, x.v, g.float().contiguous(), beta.contiguous())


def tune(x: Inputs, size: Size, dtype: str, repeats: int) -> Iterator[Row]:
    """The fastest launch of every forward kernel, one kernel changed at a time."""
    from gdn_kernels.frame_gdn.fused import table

    major, minor = torch.cuda.get_device_capability()
    entries = table.entries(10 * major + minor, dtype)
    calls = dict(timings(x, size, repeats))
    watched = {"summary": "summary", "scan": "scan", "readout": "readout"}
    watched |= dict.fromkeys(("readout_backward", "scan_backward", "summary_backward"), "main backward")
    for kernel, what in watched.items():
        usual, found = entries[kernel], []
        for candidate in CANDIDATES:
            entries[kernel] = table.Launch(*candidate)
            try:
                found.append((milliseconds(calls[what], repeats), candidate))
            except Exception as error:
                # Too much shared memory, or tiles below what a product needs: not a candidate on this machine.
                print(f"{kernel} {candidate}: {type(error).__name__}", file=sys.stderr)
        entries[kernel] = usual
        best, launch = min(found)
        yield {"tuned": kernel, "timed": what, "ms": best, "tile": launch[0], "warps": launch[1], "stages": launch[2]}


def rows(args: argparse.Namespace, device: str) -> Iterator[Row]:
    """Every line of the report."""
    about, top = machine(device), ceilings(device, args.repeats)
    yield about | top
    for dtype in args.dtype:
        yield {"dtype": dtype} | agreement(device, dtype)
        for name, batch in product(args.size, args.batch):
            size = GPU_SIZES[name]
            x = inputs(size, batch, device, DTYPES[dtype])
            base = {"size": name, "batch": batch, "dtype": dtype, "commit": about["commit"], "device": about["device"]}
            if args.tune:
                yield from (base | row for row in tune(x, size, dtype, args.repeats))
                continue
            floors = floors_ms(size, batch, dtype, top["copy_tb_s"])
            for what, call in timings(x, size, args.repeats):
                ms = milliseconds(call, args.repeats)
                floor = floors.get(what.removeprefix("main "))
                share = {} if floor is None else {"floor_ms": floor, "share_of_floor": floor / ms}
                yield base | {"what": what, "ms": ms} | share
            if name in ("chunk", "tiny"):
                yield base | {"what": "streaming chunk, main", "ms": milliseconds(streaming(x), args.repeats)}
            if dtype == "fp32":
                for branch in BRANCHES:
                    with torch.no_grad():
                        ms = milliseconds(diffusers_call(x, branch), args.repeats)
                    yield base | {"what": f"{branch} forward, diffusers", "ms": ms}
            context = token_wise(x)
            if context is not None:
                with torch.no_grad():
                    ms = milliseconds(context, args.repeats)
                yield base | {"what": "token-wise gated delta rule, one direction (fla)", "ms": ms}


def main(argv: Sequence[str] | None = None) -> None:
    """Print JSON lines."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes = ["tiny"] if device == "cpu" else [name for name in GPU_SIZES if name != "tiny"]
    parser = argparse.ArgumentParser(description="frame_gdn on this machine's GPU")
    parser.add_argument("--size", nargs="*", choices=GPU_SIZES, default=sizes)
    parser.add_argument("--batch", nargs="*", type=int, default=[1] if device == "cpu" else [1, 2])
    parser.add_argument("--dtype", nargs="*", choices=DTYPES, default=["fp32"] if device == "cpu" else list(DTYPES))
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--tune", action="store_true", help="search launch table entries; needs a GPU")
    args = parser.parse_args(argv)
    if args.tune and device == "cpu":
        parser.error("--tune needs a GPU: launch entries mean nothing to the torch form")
    for row in rows(args, device):
        rounded = {
            name: round(value, 6 if "error" not in name else 10) if isinstance(value, float) else value
            for name, value in row.items()
        }
        print(json.dumps(rounded), flush=True)


if __name__ == "__main__":
    main()

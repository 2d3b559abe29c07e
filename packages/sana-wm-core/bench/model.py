"""Time the transformer beside diffusers' on the same weights and inputs, in one run, on a CPU in float32.

    python packages/sana-wm-core/bench/model.py [--size pocket] [--threads 2] [--repeats 5]

`pocket` is the bundled world's size, `slice` four blocks of the released width on a 352 x 640 grid. Nothing is
reported unless the outputs agree first. Peak memory is measured in a child process per side. `products_ms` is the time
of our matrix products and attention alone, on the same shapes: what no reordering of the rest can go below.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sana_wm_core.config import TransformerConfig
from sana_wm_core.model import SanaWMTransformer
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

POCKET = {
    "in_channels": 192,
    "num_layers": 6,
    "hidden_size": 192,
    "num_attention_heads": 6,
    "linear_head_dim": 32,
    "caption_channels": 64,
    "softmax_every_n": 2,
    "chunk_plucker_post_attn_blocks": 6,
}
# Config and latent grid (t, y, x).
SIZES = {"pocket": (POCKET, (9, 6, 10)), "slice": ({"num_layers": 4}, (5, 11, 20))}
SIDES = ("diffusers", "ours")


def build(side: str, fields: dict) -> nn.Module:
    """A model of one side with every parameter randomised from a fixed seed."""
    from diffusers import SanaWMTransformer3DModel

    model = (
        SanaWMTransformer3DModel(**fields) if side == "diffusers" else SanaWMTransformer(TransformerConfig(**fields))
    )
    g = torch.Generator().manual_seed(0)
    for name, parameter in sorted(model.named_parameters()):
        spread = 0.5 / parameter[0].numel() ** 0.5 if parameter.ndim > 1 else 0.1
        # Gains sit around one; everything else around zero.
        middle = 1.0 if "norm" in name else 0.0
        parameter.data = middle + spread * torch.randn(parameter.shape, generator=g)
    return model.eval()


def inputs(fields: dict, grid: tuple[int, int, int]) -> dict[str, Tensor]:
    """A clip walking forward."""
    config = TransformerConfig(**fields)
    t, y, x = grid
    g = torch.Generator().manual_seed(1)
    camera = torch.zeros(1, t, 20)
    camera[..., :16] = torch.eye(4).flatten()
    camera[..., 11] = 0.4 * torch.arange(t)
    camera[..., 16:] = torch.tensor([0.7 * x, 0.7 * x, x / 2, y / 2])
    return {
        "hidden_states": torch.randn(1, config.in_channels, t, y, x, generator=g),
        "timestep": torch.full((1, 1, t), 700.0),
        "encoder_hidden_states": torch.randn(1, 1, 40, config.caption_channels, generator=g),
        "encoder_attention_mask": torch.ones(1, 40),
        "camera_conditions": camera,
        "chunk_plucker": torch.randn(1, 48, t, y, x, generator=g),
    }


class _Products(TorchDispatchMode):
    """Collects the matrix products and attentions of a forward, to run them again on their own."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable, tuple, dict]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("mm", "addmm", "bmm", "baddbmm") or "attention" in name:
            self.calls.append((func, args, kwargs or {}))
        return func(*args, **(kwargs or {}))


def products_ms(model: nn.Module, given: dict[str, Tensor], repeats: int) -> float:
    """Median time of the products of one forward."""
    with _Products() as products:
        model(**given, return_dict=False)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        for func, args, kwargs in products.calls:
            func(*args, **kwargs)
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def memory_mb(field: str) -> float:
    """A line of this process's status file, in MB (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def child_peak_mb(size: str, side: str, threads: int) -> float:
    """Memory one forward adds on top of weights and inputs, in a fresh process."""
    command = [sys.executable, __file__, "--peak", side, "--size", size, "--threads", str(threads)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def main() -> None:
    """Check, time, print one JSON line a size."""
    parser = argparse.ArgumentParser(description="The transformer beside diffusers'")
    parser.add_argument("--size", choices=[*SIZES, "all"], default="all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peak", choices=SIDES, help="internal: print the peak of one side")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    if args.peak:
        fields, grid = SIZES[args.size]
        model, given = build(args.peak, fields), inputs(fields, grid)
        # What building the model freed would be used again unseen; 5 resets the high-water mark.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = memory_mb("VmRSS")
        model(**given, return_dict=False)
        print(memory_mb("VmHWM") - before)
        return
    for name in SIZES if args.size == "all" else [args.size]:
        fields, grid = SIZES[name]
        given = inputs(fields, grid)
        models = {side: build(side, fields) for side in SIDES}
        models["ours"].load_state_dict(models["diffusers"].state_dict())
        results = {side: model(**given, return_dict=False)[0] for side, model in models.items()}
        error = float((results["ours"] - results["diffusers"]).norm() / results["diffusers"].norm())
        if not error < 1e-3:
            sys.exit(f"{name}: outputs differ by {error:.1e}; nothing is reported")
        times: dict[str, list[float]] = {side: [] for side in SIDES}
        for _ in range(args.repeats):
            for side, model in models.items():
                start = time.perf_counter()
                model(**given, return_dict=False)
                times[side].append(time.perf_counter() - start)
        row: dict[str, object] = {"size": name, "grid": grid, "threads": args.threads, "error": error}
        for side, seconds in times.items():
            row[f"{side}_ms"] = round(1e3 * statistics.median(seconds), 1)
            row[f"{side}_spread_ms"] = round(1e3 * (max(seconds) - min(seconds)), 1)
            row[f"{side}_peak_mb"] = round(child_peak_mb(name, side, args.threads), 1)
        row["products_ms"] = round(products_ms(models["ours"], given, args.repeats), 1)
        row["ratio"] = round(statistics.median(times["diffusers"]) / statistics.median(times["ours"]), 2)
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()

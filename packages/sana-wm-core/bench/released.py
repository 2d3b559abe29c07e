"""Time the first stage at the released size on one GPU, on random weights: speed does not depend on their values.

    python packages/sana-wm-core/bench/released.py --way stream --frames 121
    python packages/sana-wm-core/bench/released.py --way whole --frames 41 --steps 60
    python packages/sana-wm-core/bench/released.py --way stream --frames 10 --size tiny --device cpu

`stream` is the four-step student, chunk by chunk with the sink and one chunk of context; `whole` the bidirectional
sampler with guidance. With --diffusers one forward pass of diffusers' transformer is timed beside one of ours on the
same inputs. Prints one JSON line: seconds, times real time (16 frames a second), peak memory by torch and by the
driver, which also counts what torch does not see.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from typing import Any

import torch
from sana_wm_core.compiled import compile_blocks
from sana_wm_core.config import TransformerConfig
from sana_wm_core.graphs import replay_passes
from sana_wm_core.model import SanaWMTransformer
from sana_wm_core.offload import offload_blocks
from sana_wm_core.precision import quantize
from sana_wm_core.sampling.sampler import Conditions, Sampler
from sana_wm_core.sampling.student import ChunkSampler
from torch import Tensor

TINY = {"in_channels": 8, "num_layers": 4, "hidden_size": 48, "num_attention_heads": 2, "linear_head_dim": 24}
SIZES: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "released": ({}, (22, 40)),
    "tiny": (TINY | {"caption_channels": 32}, (2, 3)),
}
FPS = 16


class DriverPeak:
    """The most memory the driver has given away on a device while a block ran, in bytes."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.bytes, self._stop = device, 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> DriverPeak:
        if self.device.type == "cuda":
            self._thread.start()
        return self

    def __exit__(self, *rest: object) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            free, total = torch.cuda.mem_get_info(self.device)
            self.bytes = max(self.bytes, total - free)


def build(kind: Any, fields: dict[str, Any], device: torch.device, dtype: torch.dtype) -> Any:
    """A transformer with random weights, drawn where they will stay."""
    with torch.device(device):
        model = kind(TransformerConfig(**fields)) if kind is SanaWMTransformer else kind(**fields)
    model = model.to(dtype)
    generator = torch.Generator(device).manual_seed(0)
    for name, parameter in sorted(model.named_parameters()):
        spread = 0.5 / parameter[0].numel() ** 0.5 if parameter.ndim > 1 else 0.1
        parameter.data.normal_(1.0 if "norm" in name else 0.0, spread, generator=generator)
    return model.eval().requires_grad_(False)


def conditions(config: TransformerConfig, frames: int, grid: tuple[int, int], like: Tensor, guided: bool) -> Conditions:
    """A caption and a camera that walks forward."""
    camera = torch.zeros(1, frames, 20)
    camera[..., :16] = torch.eye(4).flatten()
    camera[..., 11] = 0.4 * torch.arange(frames)
    camera[..., 16:] = torch.tensor([0.7 * grid[1], 0.7 * grid[1], grid[1] / 2, grid[0] / 2])
    rays = torch.randn(1, 48, frames, *grid, generator=torch.Generator().manual_seed(2))
    text = torch.randn(1, 1, 300, config.caption_channels, generator=torch.Generator().manual_seed(3)).to(like)
    mask = torch.ones(1, 300, device=like.device)
    held = {"camera_conditions": camera.to(like), "chunk_plucker": rays.to(like)}
    return Conditions(text, mask, text if guided else None, mask if guided else None, held)


def wait(device: torch.device) -> float:
    """Now, in seconds, after all work given to a device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def one_pass(model: Any, noise: Tensor, given: Conditions, repeats: int, device: torch.device) -> float:
    """Median seconds of a forward pass over a whole clip."""
    seconds = []
    for _ in range(repeats):
        start = wait(device)
        model(
            noise,
            torch.full((1, 1, noise.shape[2]), 700.0, device=device),
            given.text,
            encoder_attention_mask=given.text_mask,
            return_dict=False,
            **given.camera,
        )
        seconds.append(wait(device) - start)
    return statistics.median(seconds)


def main() -> None:
    """Warm up, sample, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--way", choices=["stream", "whole"], default="stream")
    parser.add_argument("--frames", type=int, default=121, help="latent frames")
    parser.add_argument("--steps", type=int, default=60, help="of the whole clip")
    parser.add_argument("--size", choices=list(SIZES), default="released")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precision", choices=["bf16", "fp8", "fp4"], default="bf16")
    parser.add_argument("--offload-blocks", action="store_true")
    parser.add_argument("--cuda-graphs", action="store_true", help="replay the passes of a stream")
    parser.add_argument("--compile", action="store_true", help="torch.compile the blocks")
    parser.add_argument("--diffusers", action="store_true")
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    device = torch.device(args.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    fields, grid = SIZES[args.size]
    model = build(SanaWMTransformer, fields, device, dtype)
    config = model.config
    quantize(model, args.precision)
    if args.offload_blocks:
        offload_blocks(model, "blocks", device)
    if args.compile:
        compile_blocks(model)
    if args.cuda_graphs:
        replay_passes(model)
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(1, config.in_channels, args.frames, *grid, generator=generator).to(device, dtype)
    given = conditions(config, args.frames, grid, noise, args.way == "whole")
    times: list[float] = []

    def mark(*_: object) -> None:
        times.append(wait(device))

    sampler: Any = ChunkSampler() if args.way == "stream" else Sampler(args.steps)
    with DriverPeak(device) as driver:
        # The first run compiles kernels, fills torch's memory pool and records what can be replayed. The window is full
        # from the third chunk on, and the form of its passes comes a second time with the fourth.
        short = min(13, args.frames) if args.way == "stream" else args.frames
        first, warm = noise[:, :, :1], conditions(config, short, grid, noise, args.way == "whole")
        warming: Any = sampler if args.way == "stream" else Sampler(1)
        warming(model, first, noise[:, :, :short], warm)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        start = wait(device)
        sampler(model, first, noise, given, mark)
        seconds = wait(device) - start
    raw = 8 * (args.frames - 1) + 1
    row: dict[str, Any] = {
        "way": args.way,
        "latent_frames": args.frames,
        "steps": 4 if args.way == "stream" else args.steps,
        "size": args.size,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "precision": args.precision,
        "offload_blocks": args.offload_blocks,
        "compile": args.compile,
        "cuda_graphs": args.cuda_graphs,
        "seconds": round(seconds, 3),
        "realtime": round(raw / FPS / seconds, 3),
        "first_s": round(times[0] - start, 3),
        "each_s": round((times[-1] - times[0]) / max(1, len(times) - 1), 4),
    }
    if device.type == "cuda":
        row["peak_gb_torch"] = round(torch.cuda.max_memory_allocated(device) / 1e9, 2)
        row["peak_gb_driver"] = round(driver.bytes / 1e9, 2)
    if args.diffusers:
        from diffusers import SanaWMTransformer3DModel

        row["ours_pass_s"] = round(one_pass(model, noise, given, 3, device), 4)
        del model
        theirs = build(SanaWMTransformer3DModel, fields, device, dtype)
        row["diffusers_pass_s"] = round(one_pass(theirs, noise, given, 3, device), 4)
    print(json.dumps(row))


if __name__ == "__main__":
    sys.exit(main())

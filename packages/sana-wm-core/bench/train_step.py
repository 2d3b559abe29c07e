"""One training step of the pocket world: this trainer beside the same step written with diffusers' transformer.

    python packages/sana-wm-core/bench/train_step.py [--batch 4] [--steps 5] [--threads 2]

Both train the same configuration on the same latents with the same noise: forward, masked squared error, backward,
clipping, AdamW. Prints seconds a step (median, and the spread) and peak memory, each measured in a process of its own.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

SIDES = ("ours", "diffusers")


def main() -> None:
    """Run both sides, or the one named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", choices=SIDES)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--frames", type=int, default=9)
    given = parser.parse_args()
    if given.side:
        print(measure(given.side, given.batch, given.steps, given.threads, given.frames))
        return
    for side in SIDES:
        words = [w for k, v in vars(given).items() if k != "side" for w in (f"--{k}", str(v))]
        subprocess.run([sys.executable, __file__, "--side", side, *words], check=True)


def measure(side: str, batch: int, steps: int, threads: int, frames: int) -> str:
    """Time the steps of one side."""
    import torch

    torch.set_num_threads(threads)
    step = make_step(side, batch, frames)
    step()
    seconds = []
    for _ in range(steps):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
    spread = max(seconds) - min(seconds)
    return (
        f"{side:10s} batch {batch}  {statistics.median(seconds):.3f} s a step, spread {spread:.3f}  {peak_gib:.2f} GiB"
    )


def make_step(side: str, batch: int, frames: int) -> Callable[[], float]:
    """A closure that trains one step and returns the loss."""
    import torch
    from sana_wm_core.model import SanaWMTransformer
    from sana_wm_core.training.objective import frame_errors, noisy_clip
    from sana_wm_core.training.recipe import load_recipe

    config = load_recipe("pocket").model
    torch.manual_seed(0)
    ours = SanaWMTransformer(config)
    ours.init_weights()
    model: torch.nn.Module = ours
    if side == "diffusers":
        from diffusers import SanaWMTransformer3DModel

        model = SanaWMTransformer3DModel(**config.to_dict())
        model.load_state_dict(ours.state_dict())
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, foreach=True)
    g = torch.Generator().manual_seed(1)
    shape = (batch, config.in_channels, frames, 3, 5)
    weight = torch.ones(batch, frames)
    weight[:, 0] = 0
    clip = noisy_clip(torch.randn(shape, generator=g), 0.5 * weight, torch.randn(shape, generator=g), weight)
    camera = torch.zeros(batch, frames, 20)
    camera[..., :16] = torch.eye(4).flatten()
    camera[..., 16:] = torch.tensor([3.5, 3.5, 2.5, 1.5])
    conditions = {
        "encoder_hidden_states": torch.randn(batch, 1, 40, config.caption_channels, generator=g),
        "mask": torch.ones(batch, 40),
        "camera_conditions": camera,
        "chunk_plucker": torch.randn(batch, 48, frames, 3, 5, generator=g),
        "return_dict": False,
    }

    def step() -> float:
        velocity = model(clip.latents, clip.timestep, **conditions)[0]
        loss = frame_errors(velocity, clip).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


if __name__ == "__main__":
    main()

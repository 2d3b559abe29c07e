"""Train FrameGDN on a toy video in about a minute: recall in every later frame what the first frame showed.

    python packages/gdn-kernels/examples/recall_video.py [--iterations 300]

Every place of an 8-place frame shows a random colour in frame 0; later frames only say which place each token is. The
model must write colours under their places and read them back. Without the memory the best guess has error 1.
"""

from __future__ import annotations

import argparse
import time

import torch
from gdn_kernels import FrameGDN
from torch import Tensor, nn

FRAMES, PLACES, COLOURS, CHANNELS, HEADS = 6, 8, 3, 32, 2


class Recaller(nn.Module):
    """Embed place and colour, mix, read a colour."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.randn(PLACES, CHANNELS))
        self.embed = nn.Linear(COLOURS + 1, CHANNELS)
        self.mixer = FrameGDN(CHANNELS, HEADS)
        self.read = nn.Linear(CHANNELS, COLOURS)

    def forward(self, shown: Tensor) -> Tensor:
        """(b, t, s, colours + 1) to (b, t, s, colours)."""
        x = (self.embed(shown) + self.place).flatten(1, 2)
        chunks = torch.ones(FRAMES, dtype=torch.bool, device=x.device)
        return self.read(x + self.mixer(x, FRAMES, chunk_starts=chunks)).unflatten(1, (FRAMES, PLACES))


def batch(size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """What is shown (the last channel marks frame 0), and the colours to recall (b, s, colours)."""
    colours = torch.randn(size, PLACES, COLOURS, generator=generator)
    shown = torch.zeros(size, FRAMES, PLACES, COLOURS + 1)
    shown[:, 0, :, :COLOURS], shown[:, 0, :, COLOURS] = colours, 1
    return shown, colours


def train(iterations: int, size: int = 32, seed: int = 0, rate: float = 1e-2) -> list[float]:
    """Mean squared error of every iteration; about 1 at the start."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = Recaller()
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    errors = []
    for _ in range(iterations):
        shown, colours = batch(size, generator)
        error = (model(shown)[:, 1:] - colours[:, None]).square().mean()
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
        errors.append(float(error.detach()))
    return errors


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=300)
    args = parser.parse_args()
    start = time.perf_counter()
    errors = train(args.iterations)
    for i in range(0, args.iterations, max(1, args.iterations // 10)):
        print(f"iteration {i:4d}  error {errors[i]:.3f}")
    print(f"last {sum(errors[-10:]) / len(errors[-10:]):.3f} after {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()

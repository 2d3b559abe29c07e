"""One training step of the pocket world: this trainer beside the same step written with diffusers' transformer.

    python packages/sana-wm-core/bench/train_step.py [--batch 4] [--steps 12] [--compute bf16] [--threads 2]

Both train the pocket world's configuration on the same latents of its size with the same noise: forward, masked squared
error, backward, clipping, AdamW, in the number type of the pocket's recipe (bf16: autocast, weights stay float32) or in
float32. First their losses and all gradients are compared, in float32 and with every weight drawn so that no branch is
silent; a difference ends the script. Then each side gets a process of its own and a few steps to warm up, and the two
take turns, step by step, so that a busy moment of the machine meets both. Printed are seconds a step (median and
range), the median of the ratios of neighbouring steps, and peak memory with what the process took before its first
step. Our side keeps the memory it frees, as `sana-wm train` does (training/heap.py); `--heap plain` leaves the C
library as diffusers' side has it.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

SIDES = ("ours", "diffusers")
# Of the loss and of all gradients together; and of a single parameter's. Softmax blocks round to bfloat16 on both
# sides, as published, so that gradients which nearly cancel (those of key biases) differ by their rounding.
TOLERANCE, EACH = 1e-3, 5e-2
# Steps until a process has the memory that the next ones need.
WARM_UP = 4


def main() -> None:
    """Compare, then time; or do the part that is named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=(*SIDES, "compare"), help="only this, in this process")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=12, help="timed steps of a side")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--frames", type=int, default=9, help="latent frames; 9 is a whole clip")
    parser.add_argument("--layers", type=int, default=0, help="blocks; 0 = the pocket world's")
    parser.add_argument("--compute", choices=("fp32", "bf16"), default="bf16", help="bf16 = autocast, on both sides")
    parser.add_argument("--heap", choices=("trainer", "plain"), default="trainer", help="freed memory on our side")
    given = parser.parse_args()
    words = [w for k, v in vars(given).items() if k != "part" for w in (f"--{k}", str(v))]
    if given.part == "compare":
        print(compare(given))
    elif given.part:
        serve_steps(given)
    else:
        child = _child(["--part", "compare", *words])
        print(child.communicate()[0], end="", flush=True)
        if child.returncode:
            sys.exit(child.returncode)
        race(given, words)


def race(given: argparse.Namespace, words: list[str]) -> None:
    """Let the sides take turns, and print what each step took."""
    children = {side: _child(["--part", side, *words]) for side in SIDES}
    rows = {side: [_ask(child)] for side, child in children.items()}
    for _ in range(given.steps):
        for side, child in children.items():
            rows[side].append(_ask(child))
    for child in children.values():
        child.communicate()
    seconds = {side: [row["seconds"] for row in found[1:]] for side, found in rows.items()}
    for side, found in rows.items():
        took = seconds[side]
        print(
            f"{side:10s} batch {given.batch} {given.compute} on {given.threads} threads: "
            f"{statistics.median(took):.3f} s a step ({min(took):.3f} to {max(took):.3f}, n = {len(took)}), "
            f"peak {found[-1]['peak_gib']:.2f} GiB, {found[0]['before_gib']:.2f} before"
        )
    ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
    print(f"ours is {statistics.median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f})")


def _child(words: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, __file__, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def _ask(child: subprocess.Popen[str]) -> dict[str, Any]:
    """One more step of a child, or of warming up."""
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write("step\n")
    child.stdin.flush()
    answer = child.stdout.readline()
    if not answer:
        sys.exit(child.wait() or 1)
    found: dict[str, Any] = json.loads(answer)
    return found


def serve_steps(given: argparse.Namespace) -> None:
    """Warm up when first asked, train a step whenever asked again, and answer with its time and the memory."""
    import torch
    from sana_wm_core.training.heap import keep_freed_memory

    if given.part == "ours" and given.heap == "trainer":
        keep_freed_memory()
    torch.set_num_threads(given.threads)
    model = make_model(given.part, given.layers)
    step = make_step(model, given)
    before_gib = _peak_gib()
    for number, _ in enumerate(sys.stdin):
        started = time.perf_counter()
        for _ in range(1 if number else WARM_UP):
            step()
        seconds = time.perf_counter() - started
        print(json.dumps({"seconds": seconds, "peak_gib": _peak_gib(), "before_gib": before_gib}), flush=True)


def compare(given: argparse.Namespace) -> str:
    """Loss and gradients of both sides from the same weights; SystemExit where they differ."""
    import torch

    torch.set_num_threads(given.threads)
    losses, grads = [], []
    for side in SIDES:
        model = make_model(side, given.layers, audible=True)
        loss = loss_of(model, *make_batch(given.batch, given.frames, model.config.in_channels, _caption(model)))
        loss.backward()
        losses.append(float(loss.detach()))
        grads.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    ours, theirs = grads
    if ours.keys() != theirs.keys():
        sys.exit(f"gradients on one side only: {sorted(ours.keys() ^ theirs.keys())[:3]}")
    scale = sum(float(g.square().sum()) for g in theirs.values()) ** 0.5
    apart = {name: float((ours[name] - g).norm()) for name, g in theirs.items()}
    together = sum(d * d for d in apart.values()) ** 0.5 / scale
    each = {name: d / max(float(theirs[name].norm()), 1e-4 * scale) for name, d in apart.items()}
    worst = max(each, key=lambda name: each[name])
    line = (
        f"loss {losses[0]:.6f} and {losses[1]:.6f}; {len(ours)} gradients differ by {together:.1e} together, by "
        f"{each[worst]:.1e} at most ({worst})"
    )
    if abs(losses[0] - losses[1]) > TOLERANCE * losses[1] or together > TOLERANCE or each[worst] > EACH:
        sys.exit(f"not the same step: {line}")
    return line


def make_model(side: str, layers: int, audible: bool = False) -> Any:
    """The pocket world's transformer with the same first weights on either side."""
    import torch
    from sana_wm_core.model import SanaWMTransformer
    from sana_wm_core.training.recipe import load_recipe

    config = load_recipe("pocket").model
    if layers:
        config = config.model_copy(update={"num_layers": layers, "chunk_plucker_post_attn_blocks": layers})
    torch.manual_seed(0)
    ours = SanaWMTransformer(config)
    ours.init_weights()
    if audible:
        with torch.no_grad():
            for p in ours.parameters():
                p.add_(torch.randn_like(p) * 0.02)
    if side == "ours":
        return ours.train()
    from diffusers import SanaWMTransformer3DModel

    theirs = SanaWMTransformer3DModel(**config.to_dict())
    theirs.load_state_dict(ours.state_dict())
    return theirs.train()


def _caption(model: Any) -> int:
    return int(model.config.caption_channels)


def make_batch(batch: int, frames: int, channels: int, caption: int) -> tuple[Any, dict[str, Any]]:
    """Noised clips of the pocket world's size whose first frame is given, and what they are conditioned on."""
    import torch
    from sana_wm_core.training.objective import noisy_clip

    g = torch.Generator().manual_seed(1)
    shape = (batch, channels, frames, 6, 10)
    weight = torch.ones(batch, frames)
    weight[:, 0] = 0
    clip = noisy_clip(torch.randn(shape, generator=g), 0.5 * weight, torch.randn(shape, generator=g), weight)
    camera = torch.zeros(batch, frames, 20)
    camera[..., :16] = torch.eye(4).flatten()
    camera[..., 3] = torch.linspace(0, 1, frames)
    camera[..., 16:] = torch.tensor([7.0, 7.0, 5.0, 3.0])
    return clip, {
        "encoder_hidden_states": torch.randn(batch, 1, 40, caption, generator=g),
        "encoder_attention_mask": torch.ones(batch, 40),
        "camera_conditions": camera,
        "chunk_plucker": torch.randn(batch, 48, frames, 6, 10, generator=g),
        "return_dict": False,
    }


def loss_of(model: Any, clip: Any, conditions: dict[str, Any]) -> Any:
    """Masked squared error of the velocity."""
    from sana_wm_core.training.objective import frame_errors

    return frame_errors(model(clip.latents, clip.timestep, **conditions)[0], clip).mean()


def make_step(model: Any, given: argparse.Namespace) -> Callable[[], float]:
    """A closure that trains one step and returns the loss."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, foreach=True)
    clip, conditions = make_batch(given.batch, given.frames, model.config.in_channels, _caption(model))

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=given.compute == "bf16"):
            loss = loss_of(model, clip, conditions)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def _peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)


if __name__ == "__main__":
    main()

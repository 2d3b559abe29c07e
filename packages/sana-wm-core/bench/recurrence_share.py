"""How much the transformer gains from gdn-kernels: predicted from the recurrence alone, and measured on the whole.

    python packages/sana-wm-core/bench/recurrence_share.py [--instead definition diffusers] [--threads 2] [--repeats 7]

The pocket-sized transformer runs on the operators of gdn-kernels and, for comparison, on another recurrence in their
place: the definition, a loop over frames under autograd, or diffusers' two functions, called once a direction. The
recurrences are also timed alone, on the tensors that one forward hands them. If nothing else changes, the whole must
lose exactly what they lose: `predicted_ratio` is that, `measured_ratio` the whole's. One JSON line a pass; forward
without gradients, backward without the forward before it. Nothing is reported unless outputs and gradients agree.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gdn_kernels import frame_gdn, frame_gdn_camera
from model import SIZES, build, inputs
from sana_wm_core.model import camera, mixers
from torch import Tensor

sys.path.append(str(Path(__file__).parents[2] / "gdn-kernels" / "bench"))
from peer import Inputs, diffusers_call

Recurrence = Callable[..., Tensor]
Pair = tuple[Recurrence, Recurrence]
PASSES = ("forward", "backward")
LIMITS = {"forward": 1e-3, "backward": 1e-2}


def diffusers_main(*tokens: Tensor, rope: tuple[Tensor, Tensor], **_: Any) -> Tensor:
    """frame_gdn by diffusers' functions; bidirectional, from an empty state."""
    return diffusers_call(Inputs(*tokens, rope), "main")()


def diffusers_camera(*tokens: Tensor, **_: Any) -> Tensor:
    """frame_gdn_camera likewise."""
    return diffusers_call(Inputs(*tokens, (tokens[0], tokens[0])), "camera")()


OURS: Pair = (frame_gdn, frame_gdn_camera)
OTHERS: dict[str, Pair] = {
    "definition": (partial(frame_gdn, backend="reference"), partial(frame_gdn_camera, backend="reference")),
    "diffusers": (diffusers_main, diffusers_camera),
}


@contextmanager
def recurrences(pair: Pair) -> Iterator[None]:
    """The transformer with these in the place of frame_gdn and frame_gdn_camera."""
    mixers.frame_gdn, camera.frame_gdn_camera = pair
    try:
        yield
    finally:
        mixers.frame_gdn, camera.frame_gdn_camera = OURS


class Whole:
    """The transformer's two passes with one pair of recurrences."""

    def __init__(self, model: torch.nn.Module, given: dict[str, Tensor], pair: Pair) -> None:
        self.model, self.given, self.pair = model, given, pair
        self.weights = [x for x in model.parameters() if x.requires_grad]

    def run(self) -> Tensor:
        with recurrences(self.pair):
            return self.model(**self.given, return_dict=False)[0]

    def prepared(self, name: str) -> Callable[[], Sequence[Tensor]]:
        """What to time: results of the forward, or gradients after one."""
        if name == "forward":
            return lambda: [quiet(self.run)]
        out = self.run()
        return lambda: torch.autograd.grad(out.square().mean(), self.weights, allow_unused=True)


class Alone:
    """The recurrences of one forward, one after the other, on the tensors it gave them."""

    def __init__(self, calls: list[tuple[int, tuple[Tensor, ...], dict[str, Any]]], pair: Pair) -> None:
        self.calls, self.pair = calls, pair

    def prepared(self, name: str) -> Callable[[], object]:
        if name == "forward":
            return lambda: [quiet(partial(self.pair[i], *x, **options)) for i, x, options in self.calls]
        runs = []
        for i, tokens, options in self.calls:
            leaves = [x.detach().requires_grad_() for x in tokens]
            out = self.pair[i](*leaves, **options)
            runs.append((out, leaves, torch.ones_like(out)))
        return lambda: [torch.autograd.grad(*run) for run in runs]


def quiet(call: Callable[[], Tensor]) -> Tensor:
    """Without gradients."""
    with torch.no_grad():
        return call()


def recorded(model: torch.nn.Module, given: dict[str, Tensor]) -> list[tuple[int, tuple[Tensor, ...], dict[str, Any]]]:
    """Which recurrence was called with what in one forward."""
    calls: list[tuple[int, tuple[Tensor, ...], dict[str, Any]]] = []

    def watch(index: int, *tokens: Tensor, **options: Any) -> Tensor:
        calls.append((index, tokens, options))
        return OURS[index](*tokens, **options)

    quiet(Whole(model, given, (partial(watch, 0), partial(watch, 1))).run)
    return calls


def medians_ms(calls: dict[str, Any], name: str, repeats: int) -> dict[str, float]:
    """Median of each, taken in turns so that a slow spell of the machine hits all alike."""
    times: dict[str, list[float]] = {key: [] for key in calls}
    for _ in range(repeats + 1):
        for key, call in calls.items():
            run = call.prepared(name)
            start = time.perf_counter()
            run()
            times[key].append(1e3 * (time.perf_counter() - start))
    return {key: statistics.median(ms[1:]) for key, ms in times.items()}  # the first is a warm-up


def compare(size: str, instead: str, args: argparse.Namespace) -> Iterator[dict[str, object]]:
    """Agreement, then one row a pass."""
    fields, grid = SIZES[size]
    model, given = build("ours", fields), inputs(fields, grid)
    calls = recorded(model, given)
    pairs = {"ours": OURS, "other": OTHERS[instead]}
    timed: dict[str, Any] = {f"{side}_whole": Whole(model, given, pair) for side, pair in pairs.items()}
    timed |= {f"{side}_alone": Alone(calls, pair) for side, pair in pairs.items()}
    for name in PASSES:
        got, want = (
            torch.cat([x.flatten() for x in timed[f"{side}_whole"].prepared(name)() if x is not None]) for side in pairs
        )
        error = float((got - want).norm() / want.norm())
        if not error < LIMITS[name]:
            sys.exit(f"{size} {name}: results differ by {error:.1e}; nothing is reported")
        ms = medians_ms(timed, name, args.repeats)
        predicted = ms["other_whole"] - ms["other_alone"] + ms["ours_alone"]
        yield {
            "size": size, "pass": name, "instead": instead, "threads": args.threads,
            "calls": len(calls), "error": error,
            **{f"{key}_ms": round(value, 2) for key, value in ms.items()},
            "share_of_the_other": round(ms["other_alone"] / ms["other_whole"], 3),
            "share_of_ours": round(ms["ours_alone"] / ms["ours_whole"], 3),
            "recurrence_ratio": round(ms["other_alone"] / ms["ours_alone"], 2),
            "predicted_ratio": round(ms["other_whole"] / predicted, 2),
            "measured_ratio": round(ms["other_whole"] / ms["ours_whole"], 2),
        }  # fmt: skip


def main() -> None:
    """Check, time, print."""
    parser = argparse.ArgumentParser(description="What gdn-kernels gives the transformer")
    parser.add_argument("--size", choices=SIZES, default="pocket")
    parser.add_argument("--instead", nargs="*", choices=OTHERS, default=list(OTHERS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for instead in args.instead:
        for row in compare(args.size, instead, args):
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()

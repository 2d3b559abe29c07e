"""Walks of the chunk-causal teacher, and the regression that lets a student jump to their ends.

A walk is made chunk by chunk, each chunk behind the clean data of the chunks before it, so that pairs of neighbouring
chunks fit together. Kept are the teacher's states at the student's step list and, last, where it ended.
Reference: training 5.1.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from sana_wm_core.model.memory import Memory, Window
from sana_wm_core.sampling.chunks import bounds
from sana_wm_core.sampling.schedule import TRAIN_TIMESTEPS
from sana_wm_core.training.batches import Batch, Batches
from sana_wm_core.training.clips import Entry
from sana_wm_core.training.distill.rollout import chunk_conditions, remember, step_levels
from sana_wm_core.training.draws import stream
from sana_wm_core.training.objective import FrameErrors
from sana_wm_core.training.stage_loop import StageTrainer
from sana_wm_core.training.stages import Stage

INDEX = "walks.jsonl"


@torch.no_grad()
def walk(model: Callable[..., Any], batch: Batch, step_list: tuple[float, ...], noise: Tensor, parts: int) -> Tensor:
    """The teacher's states of clips at every stop of the step list, (b, k, c, t, y, x).

    Args:
        model: Chunk-causal velocity model.
        batch: Whole clips.
        step_list: Timesteps, from 1000 to 0.
        noise: (b, c, t, y, x) start of the walks.
        parts: Euler steps between two stops.
    """
    levels, conditions, clean = step_levels(step_list), batch.conditions, batch.clean
    memory: Memory | None = None
    chunks = []
    for a, b in bounds(batch.starts, clean.shape[2]):
        x = noise[:, :, a:b].clone()
        given = a == 0
        if given:
            x[:, :, 0] = clean[:, :, 0]
        states = [x]
        for high, low in itertools.pairwise(levels):
            fine = torch.linspace(float(high), float(low), parts + 1, dtype=torch.float64).float()
            for now, after in itertools.pairwise(fine):
                timestep = (TRAIN_TIMESTEPS * now).expand(len(x), 1, b - a).clone()
                timestep[..., 0] *= not given
                kept: list[Any] | None = [] if memory is None else None
                v = model(x, timestep, **chunk_conditions(conditions, (a, b)), memory=memory, kept=kept)[0]
                moved = x - (now - after) * v.to(x.dtype)
                x = torch.cat([x[:, :, :1], moved[:, :, 1:]], 2) if given else moved
            states.append(x)
        chunks.append(torch.stack(states, 1))
        memory = remember(model, clean[:, :, a:b], conditions, (a, b), memory, Window(0, False))
    return torch.cat(chunks, dim=3)


def write_walks(
    stage: Stage,
    model: Callable[..., Any],
    batches: Batches,
    out: str | Path,
    parts: int = 8,
    every: int = 1,
    together: int = 1,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write a walk for training clips; those already there are kept, so it can be stopped and run again.

    Args:
        stage: The stage they are for.
        model: Chunk-causal velocity model.
        batches: Where clips come from.
        out: Folder to write to.
        parts: Euler steps between two stops.
        every: Take one training clip of so many.
        together: Clips in one forward pass; they must be of one length.
        report: Called with walks done and walks in all.
    """
    assert stage.distill is not None
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    steps = stage.distill.step_list
    entries = batches.clips.entries
    numbers = [i for i, entry in enumerate(entries) if entry.split == "train"][::every]
    index = [json.dumps({"id": entries[n].id, "path": f"{entries[n].id}.safetensors"}) for n in numbers]
    missing = [n for n in numbers if not (out / f"{entries[n].id}.safetensors").is_file()]
    meta = {"step_list": json.dumps(list(steps)), "parts": str(parts), "seed": str(stage.train.seed)}
    for start in range(0, len(missing), together):
        batch = batches(missing[start : start + together], 0)
        shape = batch.clean.shape[1:]
        noise = [torch.randn(shape, generator=stream(stage.train.seed, 0, name, "walk")) for name in batch.ids]
        for name, states in zip(
            batch.ids, walk(model, batch, steps, torch.stack(noise).to(batch.clean), parts), strict=True
        ):
            temporary = out / f".{name}.{os.getpid()}"
            save_file({"states": states.half().cpu().contiguous()}, temporary, metadata=meta)
            os.replace(temporary, out / f"{name}.safetensors")
        report(len(numbers) - len(missing) + start + len(batch.ids), len(numbers))
    temporary = out / f".{INDEX}.{os.getpid()}"
    temporary.write_text("\n".join(index) + "\n")
    os.replace(temporary, out / INDEX)


class OdeTrainer(StageTrainer):
    """Regression: from any stop of a walk to its end, each chunk from a stop of its own.

    Args:
        walks: Folder that write_walks has filled, for clips of the same data and for the step list; clips without
            a walk are left out.
    """

    def __init__(self, *args: Any, walks: str | Path = "", **more: Any) -> None:
        folder = Path(walks)
        if not walks or not (folder / INDEX).is_file():
            raise ValueError(f"--walks {walks}: no {INDEX} there; make walks with `sana-wm data walks`")
        rows = [json.loads(line) for line in (folder / INDEX).read_text().splitlines()]
        self.paths = {row["id"]: folder / row["path"] for row in rows}
        super().__init__(*args, **more)
        assert self.stage.distill is not None
        if self.ranks.cp is not None:
            raise ValueError("ODE regression holds whole clips on a rank; --set mesh.cp=1")
        self.step_list = self.stage.distill.step_list

    def takes(self, entry: Entry) -> bool:
        """Whether a clip is trained on: one with a walk."""
        return super().takes(entry) and entry.id in self.paths

    def states(self, name: str) -> Tensor:
        """A clip's walk (k, c, t, y, x).

        Raises:
            ValueError: It was made for another step list.
        """
        with safe_open(self.paths[name], "pt") as file:
            steps = tuple(json.loads(file.metadata()["step_list"]))
            if steps != self.step_list:
                want, got = (",".join(f"{s:g}" for s in x) for x in (self.step_list, steps))
                raise ValueError(f"{self.paths[name]}: the walk stops at {got}, this stage wants {want}")
            return file.get_tensor("states").float()

    def errors(self, batch: Batch) -> tuple[FrameErrors, Tensor]:
        """Squared distance between the student's guess and the walk's end; clean frames do not count."""
        if any(name not in self.paths for name in batch.ids):
            return super().errors(batch)  # held-out clips have no walk: the flow loss tells how they fare
        levels = step_levels(self.step_list)
        starts, clips, stops = batch.starts, [], []
        for name in batch.ids:
            states = self.states(name)
            chosen = torch.empty(states.shape[2], dtype=torch.int64)
            random = stream(self.stage.train.seed, self.steps_done, name, "stops")
            for a, b in bounds(starts, states.shape[2]):
                # Behind clean data there is nothing to learn at the walk's end.
                chosen[a:b] = torch.randint(len(self.step_list) - batch.behind_clean, (), generator=random)
            chosen[0] = len(self.step_list) - 1
            clips.append(states)
            stops.append(chosen)
        walks, index = torch.stack(clips).to(batch.clean), torch.stack(stops)
        return ode_errors(lambda x, t: self.predict_clip(batch, x, t), walks, index, levels, batch.clean[:, :, :1])


def ode_errors(
    predict: Callable[[Tensor, Tensor], Tensor], walks: Tensor, index_bt: Tensor, levels: Tensor, first: Tensor
) -> tuple[FrameErrors, Tensor]:
    """Errors of a student that jumps from walks (b, k, c, t, y, x), each frame at its stop index_bt, to their ends."""
    b, _, _, t, *_ = walks.shape
    rows, frames = torch.arange(b)[:, None], torch.arange(t)[None]
    x = walks.transpose(1, 3)[rows, frames, :, index_bt].movedim(1, 2)
    x = torch.cat([first, x[:, :, 1:]], dim=2)
    sigma = levels.to(x)[index_bt]
    guess = x - sigma[:, None, :, None, None] * predict(x, TRAIN_TIMESTEPS * sigma[:, None]).to(x.dtype)
    error = (guess - walks[:, -1]).float().square().mean(dim=(1, 3, 4))
    weight = (sigma > 0).to(error.dtype)
    return FrameErrors(error, weight), weight.sum(1)

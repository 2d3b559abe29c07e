"""How well a camera estimator does on perfect videos: exact renders of every camera plan, errors and seconds."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wm_bench.cache import Cache
from wm_bench.camera_following import PoseRules, score_floor
from wm_bench.estimators import Estimator, PoseEstimate, PoseRequest
from wm_bench.report.tables import number
from wm_bench.report.write import write_text
from wm_bench.splits.model import CATEGORIES, BenchScene, Split, Truth

PROTOCOL = "code-v1"


@dataclasses.dataclass(frozen=True)
class Floor:
    """An estimator's errors on the exact render of one scene: degrees and metres under PROTOCOL, seconds of solving.

    `extent_m` is the longest side of the box around the true path. Without errors, `failure` says why.
    """

    split: str
    scene: str
    template: str
    estimator: str
    version: str
    frames: int
    extent_m: float
    registered: float | None
    rot_err_deg: float | None
    trans_err_m: float | None
    cpu_s: float
    wall_s: float
    failure: str


def floor_scenes() -> dict[str, list[str]]:
    """Ids by split, so that each of the twenty camera plans is there once and each category five times."""
    return {
        f"proc_{kind}_60s": [f"{CATEGORIES[(plan + shift) % 4]}_{plan:03d}" for plan in range(1, 11)]
        for kind, shift in (("simple", 0), ("hard", 2))
    }


def measure_floors(
    split: Split,
    size: tuple[int, int],
    estimators: Sequence[Estimator],
    rules: PoseRules | None = None,
    report: Callable[[str], None] | None = None,
) -> Iterator[Floor]:
    """Estimate the camera of every scene's exact render at (height, width) px, by the way a score finds its floor.

    Nothing is kept from an earlier call, so that the seconds are real; rendering is not in them. Raises ValueError for
    a split without known geometry.
    """
    if split.truth is None:
        raise ValueError(f"{split.name} has no geometry to render from; allowed: proc_simple_60s, proc_hard_60s")
    rules = dataclasses.replace(rules or PoseRules(), protocols=(PROTOCOL,))
    for scene in split.scenes:
        if report is not None:
            report(scene.id)
        rendered = dataclasses.replace(split, truth=_rendered_once(split.truth))
        for estimator in estimators:
            yield _floor(rendered, scene, size, _Timed(estimator), rules)


def _floor(split: Split, scene: BenchScene, size: tuple[int, int], timed: _Timed, rules: PoseRules) -> Floor:
    values: dict[str, float] = {}
    failure = ""
    try:
        values = score_floor(size, scene, split, timed, rules, Cache(None))["values"]
    except ValueError as error:
        failure = str(error)
    tag = f"@{PROTOCOL}/{timed.id}"
    return Floor(
        split=split.name,
        scene=scene.id,
        template=scene.template,
        estimator=timed.id,
        version=timed.version,
        frames=int(np.floor(scene.duration_s / rules.every_s + 1e-6)) + 1,
        extent_m=round(float(np.ptp(scene.c2w[:, :3, 3], axis=0).max()), 6),
        registered=values.get(f"registered@{timed.id}", timed.registered),
        rot_err_deg=values.get("rot_err_deg" + tag),
        trans_err_m=values.get("trans_err_m" + tag),
        cpu_s=timed.cpu_s,
        wall_s=timed.wall_s,
        failure=failure,
    )


class _Timed:
    """An estimator with the seconds it took, its programs' included, and the share of frames it placed."""

    def __init__(self, inner: Estimator) -> None:
        self._inner = inner
        self.id, self.version, self.weights_sha256 = inner.id, inner.version, inner.weights_sha256
        self.registered: float | None = None
        self.cpu_s = self.wall_s = 0.0

    def estimate(self, request: PoseRequest) -> PoseEstimate:
        before, start = _cpu_s(), time.perf_counter()
        try:
            found = self._inner.estimate(request)
        finally:
            self.cpu_s, self.wall_s = _cpu_s() - before, time.perf_counter() - start
        self.registered = float(found.registered.mean())
        return found


def _cpu_s() -> float:
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def _rendered_once(truth: Callable[..., Truth]) -> Callable[..., Truth]:
    """The same pictures for every estimator, drawn when the first one asks."""
    kept: list[Truth] = []

    def drawn(
        scene: BenchScene, times_s: NDArray[np.float64], size: tuple[int, int], lens: NDArray[np.float64] | None = None
    ) -> Truth:
        if not kept:
            kept.append(truth(scene, times_s, size, lens))
        return kept[0]

    return drawn


def floors_record(floors: Sequence[Floor], size: tuple[int, int], rules: PoseRules) -> dict[str, Any]:
    """Everything as plain values."""
    return {
        "size": list(size), "every_s": rules.every_s, "protocol": PROTOCOL,
        "floors": [dataclasses.asdict(floor) for floor in floors],
    }  # fmt: skip


def floors_markdown(floors: Sequence[Floor], limit_deg: float = 0.5) -> str:
    """A row a scene, three columns an estimator, then a line an estimator: how many scenes lie below `limit_deg`."""
    names = list(dict.fromkeys(x.estimator for x in floors))
    heads = ["scene", "camera plan", "extent, m"]
    heads += [f"{name}: {what}" for name in names for what in ("rotation, deg", "position, m", "CPU s")]
    out = [f"| {' | '.join(heads)} |", "|" + len(heads) * "---|"]
    rows: dict[tuple[str, str], list[str]] = {}
    for x in floors:
        kind = "hard" if "hard" in x.split else "simple"
        plan = x.template.removeprefix("traj_").removeprefix("hard_").partition("_")[2].replace("_", " ")
        cells = rows.setdefault((x.split, x.scene), [f"{kind} {x.scene}", plan, number(x.extent_m)])
        cells += [x.failure or number(x.rot_err_deg), number(x.trans_err_m), f"{x.cpu_s:.1f}"]
    out += [f"| {' | '.join(cells)} |" for cells in rows.values()]
    out.append("")
    out += [f"- {_summary(name, [x for x in floors if x.estimator == name], limit_deg)}" for name in names]
    return "\n".join(out) + "\n"


def _summary(name: str, floors: Sequence[Floor], limit_deg: float) -> str:
    found = sorted(x.rot_err_deg for x in floors if x.rot_err_deg is not None)
    below = sum(value < limit_deg for value in found)
    words = f"{name} {floors[0].version}: {below} of {len(floors)} scenes below {limit_deg:g} deg"
    if found:
        words += f", median {number(float(np.median(found)))}, worst {number(found[-1])}"
    failed = [x.scene for x in floors if x.failure]
    return words + (f"; failed: {', '.join(failed)}" if failed else "")


def write_floors(floors: Sequence[Floor], size: tuple[int, int], rules: PoseRules, folder: Path) -> list[Path]:
    """Write floors.md and floors.json into a folder."""
    record = floors_record(floors, size, rules)
    return [
        write_text(folder / "floors.md", floors_markdown(floors)),
        write_text(folder / "floors.json", json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n"),
    ]

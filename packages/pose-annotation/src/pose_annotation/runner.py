"""Many videos: a manifest, a pool of processes, failures as rows, and a run that can be killed and gone on with.

Every video is worked on in a process of its own, so that a decoder that hangs or crashes costs one row. The row of a
video is written when it is done; a run that is started again does what has no row yet, and tries again what failed for
a reason that may pass. The final files do not depend on how often the run was interrupted.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple

from pose_annotation.backends.given import GivenDepth
from pose_annotation.judging import Judgement, judge_folder
from pose_annotation.outputs import digest_of, plain, read_json, read_lines, write_json, write_lines
from pose_annotation.pipeline import Tools, annotate_video
from pose_annotation.policy import Policy, load_policy
from pose_annotation.settings import VERSION, Request, Settings, request_from_row
from pose_annotation.threads import one_thread

TRIES = 3
PASSING = ("error", "crashed", "timeout")  # may go well another time; "broken" will not
_RESULTS = ("records", "cameras", "poses", "intrinsics", "overview", "rows")
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class Task(NamedTuple):
    """One video of a run: its row's name, what is asked, where results go, and which try this is."""

    name: str
    request: Request
    out: Path
    settings: Settings
    tools: Callable[[Request], Tools]
    attempt: int


@dataclass(frozen=True)
class RunSummary:
    """What a run came to: rows by status, videos worked on now, verdicts, a digest of all results, seconds."""

    statuses: dict[str, int]
    worked: int
    judgement: Judgement
    digest: str
    seconds: float


def default_tools(request: Request) -> Tools:
    """No weights: own tracks and poses, given depth where the request names some, no captions."""
    return Tools(depth=None if request.depth is None else GivenDepth(request.depth))


def read_manifest(path: str | Path) -> list[Request]:
    """The videos of a manifest: JSON lines or CSV with a column `video` and any other field of Request.

    Relative paths count from the manifest's folder. Raises ValueError, naming the line, for rows that are not
    understood and for a video that occurs twice.
    """
    path = Path(path)
    if path.suffix == ".csv":
        try:
            with path.open(newline="", encoding="utf-8") as stream:
                rows = [{k: _cell(v) for k, v in row.items() if k and v} for row in csv.DictReader(stream)]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"cannot read manifest {path}: {error}; allowed: CSV with a column video") from None
    else:
        rows = read_lines(path, "manifest")
    if not rows:
        raise ValueError(f'manifest {path} is empty; allowed: at least one row; example: {{"video": "walk.mp4"}}')
    requests, seen = [], dict[Path, int]()
    for number, row in enumerate(rows, 1):
        try:
            request = request_from_row(row, path.parent)
        except ValueError as error:
            raise ValueError(f"{path} row {number}: {error}") from None
        place = Path(os.path.abspath(request.video))
        if place in seen:
            raise ValueError(f"{path} row {number}: {request.video.name} is in row {seen[place]} too; allowed: once")
        seen[place] = number
        requests.append(request)
    return requests


def _cell(text: str) -> Any:
    """A CSV cell: a list in JSON, or the text."""
    return json.loads(text) if text.startswith("[") and text.endswith("]") else text


def run_manifest(
    manifest: str | Path, out: str | Path, settings: Settings | None = None,
    tools: Callable[[Request], Tools] = default_tools, *, workers: int = 1, timeout_s: float = 3600.0,
    retry: bool = False, policy: Policy | None = None, executor: str = "local",
    report: Callable[[dict[str, Any], int, int], None] = lambda row, done, total: None,
) -> RunSummary:  # fmt: skip
    """Annotate all videos of a manifest into one folder, go on where an earlier run stopped, and judge.

    Args:
        tools: Makes the backends inside a worker; a function that can be pickled.
        timeout_s: A video that takes longer is ended and becomes a row.
        retry: Also try again what failed three times or is broken.
        executor: "local" processes, or "ray".
        report: Called with each new row, how many are done, and how many there are.

    Raises ValueError for a bad manifest and for a folder of another run; nothing is written then.
    """
    started, settings, policy, out = time.monotonic(), settings or Settings(), policy or load_policy(), Path(out)
    if executor not in ("local", "ray"):
        raise ValueError(f"executor is {executor!r}; allowed: local, ray; example: --executor local")
    if workers < 1 or timeout_s <= 0:
        raise ValueError(f"workers is {workers} and timeout {timeout_s:g}; allowed: both > 0; example: --workers 2")
    requests = read_manifest(manifest)
    for request in requests:
        policy.require_source(request.source)
    _claim(out, settings)
    tasks = [task for request in requests if (task := _open_task(request, out, settings, tools, retry)) is not None]
    done = len(requests) - len(tasks)
    make = _in_processes(tasks, workers, timeout_s) if executor == "local" else _on_ray(tasks, workers)
    for count, row in enumerate(make, done + 1):
        report(row, count, len(requests))
    rows = [read_json(out / "rows" / f"{_row_name(request)}.json") for request in requests]
    write_lines(out / "rows.jsonl", rows)
    (out / "videos").mkdir(exist_ok=True)
    judgement = judge_folder(out, policy)
    statuses = dict(sorted(Counter(str(row["status"]) for row in rows).items()))
    return RunSummary(statuses, len(tasks), judgement, folder_digest(out), time.monotonic() - started)


def folder_digest(out: Path) -> str:
    """SHA-256 over names and bytes of all results but the encoded clips, whose pixels the records vouch for."""
    total = hashlib.sha256()
    files = [path for kind in _RESULTS for path in sorted((out / kind).glob("*")) if not path.name.startswith(".")]
    for path in [*files, out / "verdicts.jsonl", out / "manifest.jsonl"]:
        total.update(f"{path.relative_to(out)}\0".encode())
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def _claim(out: Path, settings: Settings) -> None:
    """Mark a folder with the run's settings. Raises ValueError when it carries others, or foreign files."""
    mark, ours = out / "run.json", plain({"version": VERSION, "settings": settings.as_json()})
    if mark.is_file():
        theirs = read_json(mark)
        if theirs != ours:
            old, new = theirs.get("settings", {}), ours["settings"]
            names = sorted(k for k in new if old.get(k) != new[k]) or ["version"]
            raise ValueError(
                f"{out} is of a run with {names[0]} {old.get(names[0])}, this one has {new.get(names[0])}; allowed: "
                "the same settings, or another --out"
            )
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} holds files of something else; allowed: a new folder, or one of this run; --out new")
    write_json(mark, ours)


def _row_name(request: Request) -> str:
    return digest_of([str(request.video), request.as_json()])


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _open_task(
    request: Request, out: Path, settings: Settings, tools: Callable[[Request], Tools], retry: bool
) -> Task | None:
    """What is left to do for a video; None when its row is final."""
    name, attempt = _row_name(request), 1
    path = out / "rows" / f"{name}.json"
    if path.is_file():
        row = read_json(path)
        same = row.get("bytes") == _size(request.video)
        if same and row["status"] == "ok":
            return None
        if same and not retry and (row["status"] == "broken" or row["attempt"] >= TRIES):
            return None
        attempt = 1 if retry or not same else int(row["attempt"]) + 1
    return Task(name, request, out, settings, tools, attempt)


@one_thread()
def work(task: Task) -> dict[str, Any]:
    """Annotate the video of a task and write its row, whatever happens; returns the row."""
    try:
        done = annotate_video(task.request, task.out, task.settings, task.tools(task.request))
        row = _row(task, "ok", clips=done["clips"], video_id=done["id"], frames=done["frames"], notes=done["notes"])
    except ValueError as error:
        row = _row(task, "broken", type(error).__name__, " ".join(str(error).split()))
    except Exception as error:  # the row is where failures go
        row = _row(task, "error", type(error).__name__, " ".join(str(error).split())[:500])
    write_json(task.out / "rows" / f"{task.name}.json", row)
    return row


def _row(task: Task, status: str, kind: str = "", reason: str = "", **more: Any) -> dict[str, Any]:
    return {
        "video": task.request.video.name, "source": task.request.source, "status": status, "error": kind,
        "reason": reason, "attempt": task.attempt, "bytes": _size(task.request.video), **more,
    }  # fmt: skip


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _in_processes(tasks: list[Task], workers: int, timeout_s: float) -> Iterator[dict[str, Any]]:
    """One process a video, forked from a server that has imported everything once; a row for each as it ends."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pose_annotation.runner"])
    waiting, running = iter(tasks), dict[Any, tuple[Any, Task, float]]()
    try:
        # One thread of linear algebra a worker: they are one a core already.
        with _environment(_ONE_THREAD):
            while True:
                for task in itertools.islice(waiting, workers - len(running)):
                    process = context.Process(target=work, args=(task,), daemon=True)
                    process.start()
                    running[process.sentinel] = (process, task, time.monotonic() + timeout_s)
                if not running:
                    return
                nearest = min(deadline for _, _, deadline in running.values())
                ended = set(wait(list(running), max(0.0, nearest - time.monotonic())))
                late = {s for s, (_, _, deadline) in running.items() if time.monotonic() > deadline}
                for sentinel in ended | late:
                    process, task, _ = running.pop(sentinel)
                    yield _finished(process, task, sentinel not in ended, timeout_s)
    finally:
        for process, _, _ in running.values():
            process.kill()


def _finished(process: Any, task: Task, late: bool, timeout_s: float) -> dict[str, Any]:
    if late:
        process.kill()
    process.join()
    path = task.out / "rows" / f"{task.name}.json"
    row = read_json(path) if path.is_file() else {}
    if late:
        row = _row(task, "timeout", "Timeout", f"took longer than {timeout_s:g} s")
        write_json(path, row)
    elif process.exitcode != 0 or row.get("attempt") != task.attempt:
        row = _row(task, "crashed", "Crash", f"the worker ended with exit code {process.exitcode}")
        write_json(path, row)
    return row


def _on_ray(tasks: list[Task], workers: int) -> Iterator[dict[str, Any]]:
    """The same work as a Ray Data map, one video a row; paths travel between machines, pixels do not."""
    if not tasks:
        return
    try:
        import ray
        import ray.data
    except ImportError:
        raise ValueError(
            "Ray is not installed; allowed: pip install 'pose-annotation[ray]', or --executor local"
        ) from None
    if not ray.is_initialized():
        ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False)
    dataset = ray.data.from_items([{"number": number} for number in range(len(tasks))], override_num_blocks=len(tasks))
    mapped = dataset.map(_RayWork(tasks), num_cpus=1)
    for item in mapped.iter_rows():
        yield json.loads(item["row"])


@dataclass(frozen=True)
class _RayWork:
    tasks: list[Task]

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        return {"row": json.dumps(work(self.tasks[int(item["number"])]), sort_keys=True)}

"""Work shared over the machines of a Ray cluster that see the same folders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple


class Done(NamedTuple):
    """One part of the work: its number, what it returned, and why it failed instead, in one line."""

    number: int
    result: Any
    failure: str


def on_ray(work: Callable[[Any], Any], parts: Sequence[Any], gpus_each: float = 0.0) -> Iterator[Done]:
    """Run work(part) for every part on Ray, as they finish; a part that fails is told and stops no other.

    `work` must be importable on every machine and its results plain. A cluster is named by RAY_ADDRESS, as everywhere
    with Ray; without one, Ray starts on this machine. `gpus_each` GPUs are kept for each part. Raises ValueError when
    Ray is not installed or does not start.
    """
    try:
        import ray
    except ImportError:
        raise ValueError("Ray is not installed; allowed: pip install 'wm-bench[ray]', or no --ray") from None
    if not ray.is_initialized():
        try:
            ray.init(include_dashboard=False, log_to_driver=False)
        except Exception as error:  # a busy machine or a cluster that is not there: Ray raises any of many kinds
            raise ValueError(
                f"Ray did not start ({_last_line(error)}); allowed: a cluster named by RAY_ADDRESS, more patience by "
                "RAY_raylet_start_wait_time_s=120, or no --ray"
            ) from None
    task = ray.remote(num_cpus=1, num_gpus=gpus_each, max_retries=2)(work)
    waiting = {task.remote(part): number for number, part in enumerate(parts)}
    while waiting:
        finished, _ = ray.wait(list(waiting), num_returns=1)
        for reference in finished:
            number = waiting.pop(reference)
            try:
                yield Done(number, ray.get(reference), "")
            except Exception as error:  # whatever the part raised, wrapped by Ray
                yield Done(number, None, _last_line(error))


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__

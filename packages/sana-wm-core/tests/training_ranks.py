"""Run a function on several ranks of gloo on this machine, without importing torch again: processes are forked."""

import os
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def on_ranks(size: int, work: Callable[..., Any], *args: Any) -> list[Any]:
    """Results of work(rank, *args) of every rank; an error on any of them is raised here with its traceback."""
    with tempfile.TemporaryDirectory() as folder:
        children = [_fork(rank, size, Path(folder), work, args) for rank in range(size)]
        for child in children:
            os.waitpid(child, 0)
        results = []
        for rank in range(size):
            path = Path(folder) / f"result{rank}"
            if not path.is_file():
                raise RuntimeError(f"rank {rank} of {size} ended without a result")
            results.append(torch.load(path, weights_only=True))
        for rank, (ok, value) in enumerate(results):
            if not ok:
                raise RuntimeError(f"rank {rank} of {size}:\n{value}")
        return [value for _, value in results]


def _fork(rank: int, size: int, folder: Path, work: Callable[..., Any], args: tuple[Any, ...]) -> int:
    child = os.fork()
    if child:
        return child
    try:
        torch.set_num_threads(1)
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
        store = dist.FileStore(str(folder / "store"), size)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=300))
        result: tuple[bool, Any] = (True, work(rank, *args))
        dist.barrier()
    except BaseException:
        result = (False, traceback.format_exc())
    torch.save(result, folder / f"part{rank}")
    os.replace(folder / f"part{rank}", folder / f"result{rank}")
    os._exit(0)

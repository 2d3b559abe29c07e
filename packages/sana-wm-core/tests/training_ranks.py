"""Run a function in another process: on several ranks of gloo on this machine, or on its own.

Processes are forked from a server process that imported torch and did nothing else: a fork of the test process itself
cannot run autograd once any earlier test started its threads.
"""

import importlib.util
import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["pytest", "torch._dynamo", "torch.distributed", "sana_wm_core.training.stage_loop"])


def on_ranks(size: int, work: Callable[..., Any], *args: Any) -> list[Any]:
    """Results of work(rank, *args), a function of a test module, of every rank; any error is raised here."""
    with tempfile.TemporaryDirectory() as folder:
        call = (work.__code__.co_filename, work.__name__, args)
        children = [_SERVER.Process(target=_work, args=(rank, size, folder, *call)) for rank in range(size)]
        for child in children:
            child.start()
        for child in children:
            child.join()
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


def start(work: Callable[..., None], *args: Any) -> BaseProcess:
    """A process that runs work(*args), a function of a test module, on one thread."""
    child = _SERVER.Process(target=_alone, args=(work.__code__.co_filename, work.__name__, args))
    child.start()
    return child


def _alone(file: str, name: str, args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    getattr(_module(file), name)(*args)


def _work(rank: int, size: int, folder: str, file: str, name: str, args: tuple[Any, ...]) -> None:
    try:
        torch.set_num_threads(1)
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
        store = dist.FileStore(str(Path(folder) / "store"), size)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=300))
        result: tuple[bool, Any] = (True, getattr(_module(file), name)(rank, *args))
        dist.barrier()
    except BaseException:
        result = (False, traceback.format_exc())
    torch.save(result, Path(folder) / f"part{rank}")
    os.replace(Path(folder) / f"part{rank}", Path(folder) / f"result{rank}")
    os._exit(0)


def _module(file: str) -> Any:
    # By its file: pytest gives test modules names that no other process can import.
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

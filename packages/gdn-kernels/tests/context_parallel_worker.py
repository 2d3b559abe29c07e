"""Run by test_gdn_context_parallel.py in a process of its own: forks gloo processes and compares with one process.

The parent only imports torch: a process that has run autograd cannot be forked and use it again.
"""

import multiprocessing
import os
import sys
import tempfile
from pathlib import Path

import gdn_cases as cases
import torch
import torch.distributed as dist
from gdn_kernels import CameraTokens, FrameState, frame_gdn, frame_gdn_camera, frame_gdn_cp
from torch import Tensor

SHARDS = {2: (4, 3), 4: (3, 4, 1, 5)}
S, H, D, E = 3, 2, 6, 4
TOKENS, GATES = ("q", "k", "v"), ("beta", "log_gamma")


def starts(frames: int, at: list[int] | None) -> Tensor | None:
    if at is None:
        return None
    flags = torch.zeros(frames, dtype=torch.bool)
    flags[at] = True
    return flags


def modes(shards: tuple[int, ...]) -> dict[str, list[int] | None]:
    frames = sum(shards)
    edge = shards[0]
    return {
        "bidirectional": None,
        "resets on shard edges": [0, edge],
        "resets off shard edges": [2, edge + 1, frames - 1],
        "forward only": list(range(frames)),
    }


def cut(x: dict[str, Tensor], a: int, b: int) -> dict[str, Tensor]:
    part = {name: x[name][:, a * S : b * S] for name in TOKENS}
    return part | {name: x[name][:, :, a:b] for name in GATES}


def leaves(shards: tuple[int, ...], dtype: torch.dtype, seed: int) -> dict[str, Tensor]:
    return {n: x.requires_grad_() for n, x in cases.inputs(2, H, sum(shards), S, D, dtype, seed=seed, e=E).items()}


def compare(rank: int, shards: tuple[int, ...], at: list[int] | None, dtype: torch.dtype, limit: float) -> None:
    frames = sum(shards)
    first, last = sum(shards[:rank]), sum(shards[: rank + 1])
    main, camera = leaves(shards, dtype, 1), leaves(shards, dtype, 2)
    g = torch.Generator().manual_seed(5)
    kv, z, ray = (torch.rand(2, H, D, *more, generator=g, dtype=dtype).requires_grad_() for more in ([E], [], [E]))
    weights = torch.rand(2, frames * S, H, E, generator=g, dtype=dtype)
    rope, flags = cases.rope(frames * S, D, dtype), starts(frames, at)
    given = [*main.values(), *(camera[n] for n in ("q", "k", "v", "beta")), kv, z, ray]

    def loss_of(out: Tensor, ray_out: Tensor, w: Tensor) -> Tensor:
        return (out * w).sum() + (ray_out * w).square().sum()

    shared = {"chunk_starts": flags, "output_final_state": True}
    out, state = frame_gdn(**main, rope=rope, initial_state=FrameState(kv, z), **shared)
    ray_in = camera | {"log_gamma": main["log_gamma"]}
    ray_out, ray_state = frame_gdn_camera(**ray_in, initial_state=FrameState(ray), **shared)
    loss = loss_of(out, ray_out, weights) + state.kv.square().sum() + state.z.sum() + ray_state.kv.square().sum()
    want = torch.autograd.grad(loss, given)

    calls, gather = [], dist.all_gather
    dist.all_gather = lambda *a, **k: (calls.append(1), gather(*a, **k))[1]
    mine = cut(main, first, last)
    ray_cut = cut(ray_in, first, last)
    local = slice(first * S, last * S)
    mixed = frame_gdn_cp(
        **mine,
        camera=CameraTokens(*(ray_cut[n] for n in ("q", "k", "v", "beta")), FrameState(ray)),
        rope=(rope[0][local], rope[1][local]),
        chunk_starts=None if flags is None else flags[first:last],
        initial_state=FrameState(kv, z),
    )
    assert len(calls) == 1, "more than one exchange forward"
    loss = loss_of(mixed.out, mixed.camera_out, weights[:, local])
    if last == frames:
        loss = loss + mixed.state.kv.square().sum() + mixed.state.z.sum() + mixed.camera_state.kv.square().sum()
        assert cases.error(mixed.state.z, state.z) < limit
    got = torch.autograd.grad(loss, given, allow_unused=True, materialize_grads=True)
    dist.all_gather = gather
    assert len(calls) == 2, "more than one exchange backward"
    assert cases.error(mixed.out, out[:, local]) < limit
    assert cases.error(mixed.camera_out, ray_out[:, local]) < limit
    for i, (one, whole) in enumerate(zip(got, want, strict=True)):
        total = one.clone()
        dist.all_reduce(total)
        assert cases.error(total, whole) < 2 * limit, f"gradient {i}: {cases.error(total, whole):.1e}"
    alone = frame_gdn_cp(**mine, chunk_starts=None if flags is None else flags[first:last])
    assert cases.error(alone.out, frame_gdn(**main, chunk_starts=flags)[:, local]) < limit
    assert alone.camera_out is None


def work(rank: int, world: int, meeting: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    shards = SHARDS[world]
    for at in modes(shards).values():
        compare(rank, shards, at, torch.float64, 1e-12)
    compare(rank, shards, modes(shards)["resets off shard edges"], torch.float32, 1e-6)
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    fork = multiprocessing.get_context("fork")
    for world in SHARDS:
        with tempfile.TemporaryDirectory() as folder:
            meeting = str(Path(folder) / "meeting")
            processes = [fork.Process(target=work, args=(rank, world, meeting)) for rank in range(world)]
            for process in processes:
                process.start()
            for process in processes:
                process.join()
            if any(process.exitcode for process in processes):
                sys.exit(f"{world} processes ended with {[process.exitcode for process in processes]}")
        print(f"{world} processes agree with one")


if __name__ == "__main__":
    main()

"""Ranks and what each of them does: data ranks see different clips, ranks along time share one, all share the weights.

One process needs none of this and runs plain tensors. With more, weights, gradients and optimiser state are sharded by
FSDP2 over dp_shard x cp, block by block; dp_replicate copies of that average their gradients.
"""

from __future__ import annotations

import os
import warnings
from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import nn

from sana_wm_core.model import SanaWMTransformer
from sana_wm_core.training.parallel.shard import shard_along_time
from sana_wm_core.training.plan import Layout, layout
from sana_wm_core.training.stages import Precision, Stage

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "fp64": torch.float64}


class Ranks(NamedTuple):
    """This process among all.

    Attributes:
        layout: How many of which kind.
        rank: Number of this process; 0 writes.
        data_rank: Which clips it sees.
        cp: The group it shares a clip with, None if it has it alone.
        fsdp: Mesh the weights are sharded over, None for one process.
    """

    layout: Layout
    rank: int = 0
    data_rank: int = 0
    cp: dist.ProcessGroup | None = None
    fsdp: dist.DeviceMesh | None = None

    @property
    def together(self) -> bool:
        """There is more than one process."""
        return self.layout.world > 1

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over all ranks."""
        if self.together:
            values = values.clone()
            dist.all_reduce(values)
        return values


def start_ranks(stage: Stage, device: str) -> Ranks:
    """Join the other processes that torchrun started, or be alone.

    Raises:
        ValueError: The mesh does not fit the number of processes.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    shape = layout(stage.mesh, world)
    if world == 1:
        return Ranks(shape)
    kind = torch.device(device).type
    if not dist.is_initialized():
        if kind == "cuda":
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo", timeout=timedelta(minutes=90))
    rank = dist.get_rank()
    flat = (shape.dp_replicate, shape.dp_shard * shape.cp)
    sharded = dist.init_device_mesh(kind, flat, mesh_dim_names=("dp_replicate", "fsdp"))
    along = dist.init_device_mesh(kind, (shape.data_ranks, shape.cp), mesh_dim_names=("data", "cp"))
    return Ranks(
        shape,
        rank,
        rank // shape.cp,
        along["cp"].get_group() if shape.cp > 1 else None,
        sharded if shape.dp_replicate > 1 else sharded["fsdp"],
    )


def spread(model: SanaWMTransformer, precision: Precision, ranks: Ranks, trainable: bool = True) -> None:
    """Prepare a transformer for the ranks, in place: time first, then checkpointing, then FSDP block by block.

    Master weights are float32 (float64 if that is the compute type); gathered copies and activations have the compute
    type, gradients are reduced in float32.
    """
    if ranks.layout.cp > 1:
        shard_along_time(model)
    model.gradient_checkpointing = precision.checkpoint_blocks and trainable
    model.to(torch.float64 if precision.compute == "fp64" else torch.float32)
    if ranks.fsdp is None:
        return
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    # A block's result is a view of the sum it made; nothing writes into it, which is all the warning is about.
    warnings.filterwarnings("ignore", message=".*returned a view tensor", category=UserWarning)
    half = DTYPES[precision.compute] if precision.compute == "bf16" else None
    # Inputs are not cast: poses stay float32, and the model casts its latents itself.
    policy = MixedPrecisionPolicy(half, torch.float32 if half else None, cast_forward_inputs=False)
    for block in model.blocks:
        fully_shard(block, mesh=ranks.fsdp, mp_policy=policy)
    fully_shard(model, mesh=ranks.fsdp, mp_policy=policy)


def release(model: nn.Module) -> None:
    """Let go of gathered weights after a forward pass that no backward follows.

    FSDP keeps the outermost weights gathered for the backward; whoever changes the shards in between would find the old
    ones used again.
    """
    reshard = getattr(model, "reshard", None)
    if reshard is not None:
        reshard()


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A sharded tensor put together; every rank must call it. Plain tensors come back as they are."""
    full = getattr(tensor, "full_tensor", None)
    return tensor if full is None else full()


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters the optimiser moves, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}

"""What a stage will cost before it starts: parameters, tokens, memory, steps, ranks.

Memory is counted, not measured. Per rank, in bytes:

    weights     4 P / W      float32 masters, sharded over W = dp_shard * cp ranks
    gradients   4 P' / W     P' parameters are trained
    optimiser   8 P' / W     two float32 moments (2 P' with 8-bit state)
    working     2 P_block 2  two gathered blocks in bfloat16 (all of 2 P on one rank that trains adapters)
    averages    4 P' / W     with ema
    stored      activations kept for the backward: with checkpointing one token stream per block and the inside of one
                block; without, the inside of every block

A block's inside is counted in token streams of width hidden: see _BLOCK_STREAMS. The allocator's slack, the kernels'
scratch and the process itself are not in the sum; leave a fifth free.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

from sana_wm_core.config import TransformerConfig
from sana_wm_core.training.stages import Mesh, Stage

# Tensors of (tokens, hidden) that autograd keeps inside one block: norms and modulations 6, both branches' q, k, v with
# their filtered, normalised and rotated forms 24, gates and outputs 8, text 6; the feed-forward adds its own below.
_BLOCK_STREAMS = 44
GIB = 1 << 30


class Layout(NamedTuple):
    """Ranks of a run: world = dp_replicate * dp_shard * cp."""

    dp_replicate: int
    dp_shard: int
    cp: int

    @property
    def world(self) -> int:
        """All ranks."""
        return self.dp_replicate * self.dp_shard * self.cp

    @property
    def data_ranks(self) -> int:
        """Ranks that see different clips."""
        return self.dp_replicate * self.dp_shard


def layout(mesh: Mesh, world: int) -> Layout:
    """Divide the ranks there are.

    Raises:
        ValueError: The numbers of the mesh do not multiply to the world's.
    """
    fixed = mesh.dp_replicate * mesh.cp
    shard = mesh.dp_shard or max(world // fixed, 1)
    out = Layout(mesh.dp_replicate, shard, mesh.cp)
    if out.world != world:
        raise ValueError(
            f"mesh dp_replicate={out.dp_replicate} x dp_shard={out.dp_shard} x cp={out.cp} needs {out.world} "
            f"processes, but there are {world}; for example --set mesh.cp=1, or torchrun --nproc-per-node {out.world}"
        )
    return out


def check_batch(stage: Stage, ranks: Layout) -> int:
    """Forward passes a data rank does in a step.

    Raises:
        ValueError: The global batch does not divide among the data ranks and their micro batches.
    """
    per_pass = ranks.data_ranks * stage.train.micro_batch
    if stage.train.global_batch % per_pass:
        raise ValueError(
            f"train.global_batch={stage.train.global_batch} must be a multiple of {ranks.data_ranks} data ranks x "
            f"train.micro_batch={stage.train.micro_batch}, for example {per_pass}"
        )
    return stage.train.global_batch // per_pass


class Plan(NamedTuple):
    """Numbers of a run, before it runs."""

    parameters: int
    trained: int
    tokens_a_clip: int
    tokens_a_step: int
    passes: int
    ranks: Layout
    memory: dict[str, float]  # GiB a rank

    @property
    def memory_gib(self) -> float:
        """All of it, a rank."""
        return sum(self.memory.values())

    def lines(self, stage: Stage) -> list[str]:
        """The plan for a person."""
        r, t = self.ranks, stage.train
        parts = ", ".join(f"{name} {size:.2f}" for name, size in self.memory.items() if size >= 0.005)
        forcing = f", chunks of {stage.objective.chunk_frames}" if stage.objective.chunk_frames else ""
        return [
            f"{stage.name}: {stage.purpose}",
            f"  source      {stage.source or 'ours'}",
            f"  start       {stage.start.path or 'random weights (set start.path, or give --init)'}",
            f"  parameters  {_count(self.parameters)}, of which {_count(self.trained)} trained",
            f"  clip        {stage.data.raw_frames} raw = {stage.data.latent_frames} latent frames of "
            f"{stage.data.rows} x {stage.data.columns} = {self.tokens_a_clip:,} tokens{forcing}",
            f"  step        {t.global_batch} clips = {self.tokens_a_step:,} tokens; {self.passes} passes of "
            f"{t.micro_batch} on {r.data_ranks} data ranks",
            f"  steps       {t.steps:,} = {t.steps * t.global_batch:,} clips; rate {stage.optim.learning_rate:g}, "
            f"gradient norm cut at {stage.optim.clip:g}",
            f"  ranks       {r.world} = {r.dp_replicate} copies x {r.dp_shard} shards x {r.cp} along time",
            f"  memory      {self.memory_gib:.2f} GiB a rank, counted, not measured ({parts})",
            f"  saves       every {stage.saving.every} steps, {stage.saving.keep} kept",
        ]


def make_plan(stage: Stage, world: int | None = None) -> Plan:
    """Count what a stage costs on `world` ranks; None takes the fewest its mesh allows.

    Raises:
        ValueError: A mesh or batch that does not divide.
    """
    mesh = stage.mesh
    ranks = layout(mesh, world or mesh.dp_replicate * max(mesh.dp_shard, 1) * mesh.cp)
    passes = check_batch(stage, ranks)
    sizes = parameter_sizes(stage.model)
    total = sum(sizes.values())
    trained = total
    if stage.lora is not None:
        trained = sum(
            stage.lora.rank * (rows + columns)
            for name, (rows, columns) in matrix_shapes(stage.model).items()
            if stage.lora.adapts(name.removesuffix(".weight"))
        )
    tokens = stage.data.latent_frames * stage.data.rows * stage.data.columns
    return Plan(
        total,
        trained,
        tokens,
        tokens * stage.train.global_batch,
        passes,
        ranks,
        _memory(stage, ranks, total, trained, sizes, tokens),
    )


def parameter_sizes(config: TransformerConfig) -> dict[str, int]:
    """Elements of every parameter, without making one."""
    return {name: math.prod(shape) for name, shape in _shapes(config).items()}


def matrix_shapes(config: TransformerConfig) -> dict[str, tuple[int, int]]:
    """Rows and columns of every linear layer's weight."""
    return {name: (s[0], s[1]) for name, s in _shapes(config).items() if len(s) == 2 and "table" not in name}


def _shapes(config: TransformerConfig) -> dict[str, tuple[int, ...]]:
    from sana_wm_core.model import SanaWMTransformer

    with torch.device("meta"):
        return {name: tuple(p.shape) for name, p in SanaWMTransformer(config).named_parameters()}


def _memory(
    stage: Stage, ranks: Layout, total: int, trained: int, sizes: dict[str, int], tokens: int
) -> dict[str, float]:
    config, shards = stage.model, ranks.dp_shard * ranks.cp
    half = 2 if stage.precision.compute == "bf16" else 4
    block = max(sum(n for k, n in sizes.items() if k.startswith(f"blocks.{i}.")) for i in range(config.num_layers))
    local = math.ceil(stage.data.latent_frames / ranks.cp) * stage.data.rows * stage.data.columns
    stream = local * config.hidden_size * half * stage.train.micro_batch
    # Widened activations: before and after the depthwise filter, the gated half, its input.
    inside = stream * (_BLOCK_STREAMS + 2 * config.mlp_ratio * 3)
    stored = inside * config.num_layers
    if stage.precision.checkpoint_blocks:
        stored = stream * config.num_layers + inside
    moments = 2 if stage.optim.kind == "adamw8bit" else 8
    frozen = total - trained if stage.lora else 0
    out: dict[str, float] = {
        "weights": 4 * (total - frozen) / shards + frozen * half / shards + (4 * trained if stage.lora else 0),
        "gradients": 4 * trained / shards,
        "optimiser": moments * trained / shards,
        "working": 2 * block * half if shards > 1 else (total - frozen) * (half if half == 2 else 0),
        "averages": 4 * trained / shards if stage.optim.ema else 0,
        "stored": stored,
    }
    if stage.distill is not None and stage.distill.job == "self_forcing":
        # The fake score is trained like the student, the real score only read.
        for part in ("weights", "gradients", "optimiser"):
            out[part] *= 2
        out["weights"] += total * half / shards
    return {name: size / GIB for name, size in out.items()}


def _count(n: int) -> str:
    return f"{n / 1e9:.3f} B" if n >= 1e9 else f"{n / 1e6:.2f} M" if n >= 1e6 else f"{n:,}"


def as_json(plan: Plan) -> dict[str, Any]:
    """The plan for a file."""
    return {**plan._asdict(), "ranks": plan.ranks._asdict(), "memory_gib": round(plan.memory_gib, 3)}

"""The second stage on the command line: whether there is one, where its files are, and when it is in memory."""

from __future__ import annotations

import gc
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from refiner import Refiner, RefinerState
    from sana_wm_core.layouts import World
    from sana_wm_core.pipeline import WorldPipeline

    from sana_wm_cli.display import Display
    from sana_wm_cli.inputs import Request


@dataclass
class RefinerPlan:
    """How a request wants its latents refined. Nothing is loaded before it is needed.

    Attributes:
        root: Folder with transformer/ and connectors/.
        gemma: Folder of Gemma-3.
        seed: Noise seed.
        sink: Latent frames kept as they are.
        block: Latent frames refined together; None = the whole clip.
        window: Latent frames a block looks back at.
        lora: Adapter folded in.
        precision: Number format of the linear layers.
        offload: Free the first stage before, and the second stage after refining.
        offload_blocks: Keep transformer blocks in main memory.
        fps: Frames per second.
    """

    root: Path
    gemma: Path
    seed: int = 42
    sink: int = 1
    block: int | None = None
    window: int = 11
    lora: Path | None = None
    precision: str = "bf16"
    offload: bool = False
    offload_blocks: bool = False
    fps: float = 16.0
    _transformer: Any = field(default=None, repr=False)

    def describe(self) -> dict[str, Any]:
        """For the record of a run."""
        names = ("seed", "sink", "block", "window", "precision")
        files = {"root": str(self.root), "gemma": str(self.gemma), "lora": str(self.lora) if self.lora else None}
        return files | {name: getattr(self, name) for name in names}

    def load(self, prompt: str, device: torch.device) -> Refiner:
        """The refiner for a prompt; Gemma-3 is gone again before the transformer comes."""
        import torch
        from refiner import Refiner, load_text, load_transformer, merge_lora
        from sana_wm_core.offload import offload_blocks
        from sana_wm_core.precision import quantize

        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        text = load_text(self.root, self.gemma, dtype=dtype, device=device)
        states, mask = text.encode(prompt)
        del text
        _free()
        if self._transformer is None:
            # Blocks that are quantised or offloaded need not all be on the GPU at once.
            first = torch.device("cpu") if self.offload_blocks else device
            transformer = load_transformer(self.root / "transformer", dtype=dtype, device=first)
            if self.lora is not None:
                merge_lora(transformer, self.lora)
            quantize(transformer, self.precision, "refiner")
            if self.offload_blocks:
                offload_blocks(transformer, "transformer_blocks", device)
            self._transformer = transformer
        return Refiner(
            self._transformer,
            states,
            mask,
            fps=self.fps,
            sink=self.sink,
            block=self.block,
            window=self.window,
            seed=self.seed,
        )

    def for_clips(self, pipeline: WorldPipeline, display: Display) -> ClipRefiner:
        """The second stage as the pipeline calls it."""
        return ClipRefiner(self, pipeline, display)

    def release(self) -> None:
        """Forget the weights."""
        self._transformer = None
        _free()


@dataclass
class ClipRefiner:
    """Refines whole clips."""

    plan: RefinerPlan
    pipeline: WorldPipeline
    display: Display

    @property
    def dropped_frames(self) -> int:
        """Raw frames that were never refined."""
        return self.plan.sink

    def __call__(self, latents: torch.Tensor, prompt: str) -> torch.Tensor:
        """Refined latents."""
        device = self.pipeline.device
        if self.plan.offload:
            # The first stage is done with this clip; it stays in main memory while the codec decodes, too.
            self.pipeline.transformer.to("cpu")
            _free()
        refined = self.plan.load(prompt, device)(latents, self.display.step)
        if self.plan.offload:
            self.plan.release()
        return refined


@dataclass
class StreamRefiner:
    """Refines a stream, chunk by chunk; loaded with the first one."""

    plan: RefinerPlan
    prompt: str
    device: torch.device
    _refiner: Any = None

    def __call__(self, latents: torch.Tensor, state: RefinerState) -> tuple[torch.Tensor, RefinerState]:
        """Refined latents and the state after them."""
        if self._refiner is None:
            self._refiner = self.plan.load(self.prompt, self.device)
        return self._refiner.chunk(latents, state)


def plan_refiner(world: World, request: Request) -> RefinerPlan | None:
    """Decide whether to refine, and make sure before anything is sampled that the files are there.

    A released model is refined unless --no_refiner says otherwise; the pocket world never is. A model in diffusers'
    layout is refined where it brings a refiner, as diffusers keeps the two apart.

    Raises:
        ValueError: Files are missing; says which and what to do.
    """
    import typer
    from sana_wm_core.hub import fetch_folder

    folders = world.refiner
    asked = request.refiner_root is not None
    if request.no_refiner or (folders is None and not asked):
        flags = (request.refiner_root, request.refiner_gemma_root, request.refiner_seed, request.sink_size)
        if folders is None and (request.offload_refiner or any(flag is not None for flag in flags)):
            typer.echo("note: the pocket world has no refiner; the refiner flags have no effect", err=True)
        return None
    if folders is not None and not asked and not folders.complete and folders.hub_id is not None:
        fetch_folder(folders.hub_id, "refiner")
    root = _folder(request.refiner_root, folders.root if folders else None, "--refiner_root")
    gemma = _folder(request.refiner_gemma_root, folders.gemma if folders and not asked else root / "text_encoder", "")
    needed = (root / "transformer", root / "connectors", gemma)
    missing = [part for part in needed if not (part / "config.json").is_file()]
    if missing:
        if folders is not None and not folders.required and not asked:
            typer.echo(f"note: no refiner in {root}; decoding stage-1 latents (--no_refiner hides this)", err=True)
            return None
        raise ValueError(
            f"the refiner is incomplete: no config.json in {', '.join(map(str, missing))}; fetch it, name its folders "
            "with --refiner_root and --refiner_gemma_root, or decode stage 1 with --no_refiner"
        )
    streaming = world.pipeline.defaults.sampler == "self_forcing"
    return RefinerPlan(
        root,
        gemma,
        seed=42 if request.refiner_seed is None else request.refiner_seed,
        sink=request.sink_size or 1,
        block=request.refiner_block_size or (3 if streaming else None),
        window=request.refiner_kv_max_frames or 11,
        lora=request.refiner_lora,
        precision=request.refiner_precision,
        offload=request.offload_refiner,
        offload_blocks=request.offload_blocks,
        fps=float(world.pipeline.defaults.fps if request.fps is None else request.fps),
    )


def _folder(given: str | None, own: Path | None, flag: str) -> Path:
    from sana_wm_core.hub import fetch_file, fetch_folder

    if given is None:
        assert own is not None, flag
        return own
    if given.startswith("hf://"):
        parts = given.removeprefix("hf://").split("/")
        if len(parts) < 3:
            return fetch_folder(given.removeprefix("hf://"))
        return fetch_folder("/".join(parts[:2]), "refiner").joinpath(*parts[2:])
    return fetch_file(given)


def _free() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

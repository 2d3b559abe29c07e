"""sana-wm data pairs: what the refiner learns from, made of annotated videos."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from sana_wm_core.layouts import RefinerFolders
    from sana_wm_core.pipeline import WorldPipeline
    from torch import Tensor


def pairs(
    data: Annotated[Path, typer.Argument(help="Folder of annotated clips, with manifest.jsonl.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write the pairs to.")],
    model: Annotated[str, typer.Option("--model", help="Released model whose codec, and first stage, are used.")],
    low: Annotated[
        str, typer.Option("--low", help="What refining starts from: stage1 (a sampled clip), or downN such as down2.")
    ] = "stage1",
    refiner_root: Annotated[str, typer.Option("--refiner_root", help="Folder with connectors/, for prompts.")] = "",
    gemma: Annotated[str, typer.Option("--refiner_gemma_root", help="Folder of Gemma-3, for prompts.")] = "",
    height: Annotated[int, typer.Option("--height", help="Crop to this height, pixels.")] = 704,
    width: Annotated[int, typer.Option("--width", help="Crop to this width, pixels.")] = 1280,
    frames: Annotated[int, typer.Option("--frames", min=0, help="Longest clip, raw frames; 0 = no limit.")] = 0,
    steps: Annotated[int, typer.Option("--step", min=0, help="Sampler steps of stage1; 0 = the model's.")] = 0,
    seed: Annotated[int, typer.Option("--seed", help="Noise of stage1.")] = 42,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
) -> None:
    """Write latents of a first stage, or of degraded video, beside those they should become; can be run again."""
    from PIL import Image
    from refiner.training import Pairs, degrade, write_pair
    from refiner.training.pairs import INDEX
    from sana_wm_core.layouts import open_world
    from sana_wm_core.training.encode import read_manifest
    from sana_wm_core.training.prepare import caption_of, open_clip

    from sana_wm_cli.data import _progress

    factor = _factor(low)
    rows = read_manifest(data)
    done = {row["id"] for row in Pairs(out).rows} if (out / INDEX).is_file() else set()
    todo = [row for row in rows if str(row["id"]) not in done]
    with _progress("pairing") as progress:
        task = progress.add_task("clips", total=len(rows), completed=len(rows) - len(todo))
        if todo:
            world = open_world(model, device=device)
            if factor is None and world.pipeline.defaults.sampler != "flow_euler_ltx":
                raise ValueError(
                    f"--low stage1 samples whole clips, {model} works chunk by chunk; take the bidirectional model, or "
                    "--low down2"
                )
            # Gemma-3 is gone again before the clips come.
            _write_prompts(todo, out, world.refiner, refiner_root, gemma, device)
            for row in todo:
                name = str(row["id"])
                clip = open_clip(data, row, world.pipeline.codec.temporal_stride, frames)
                video = clip.video((height, width))
                high = _encode(world.pipeline, video)
                if factor is None:
                    more: dict[str, Any] = {"c2w": clip.c2w, "intrinsics": clip.intrinsics, "frames": len(clip.frames)}
                    more |= {"height": height, "width": width, "seed": seed, "steps": steps or None}
                    lows = world.pipeline(Image.fromarray(clip.frames[0]), caption_of(row), **more).latents
                else:
                    lows = _encode(world.pipeline, degrade(video, factor))
                write_pair(out, name, lows.float().cpu(), high.float().cpu(), kind=low)
                progress.advance(task)
    typer.echo(f"{out}: {len(rows)} pairs")


def _factor(low: str) -> float | None:
    """How many times smaller the degraded video is; None for a first stage."""
    if low == "stage1":
        return None
    try:
        factor = float(low.removeprefix("down"))
        if not low.startswith("down") or not factor > 1:
            raise ValueError
    except ValueError:
        raise ValueError(f"--low {low!r} must be stage1, or down and a factor above 1, such as down2") from None
    return factor


def _write_prompts(
    rows: list[dict[str, Any]], out: Path, own: RefinerFolders | None, root: str, gemma: str, device: str
) -> None:
    import torch
    from refiner import load_text
    from refiner.training.pairs import text_file, write_text
    from sana_wm_core.training.prepare import caption_of

    rows = [row for row in rows if not text_file(out, str(row["id"])).is_file()]
    if not rows:
        return
    if own is None and not root:
        raise ValueError("this model has no refiner; name LTX-2's folder with --refiner_root and --refiner_gemma_root")
    folder = Path(root) if root else own.root if own else Path()
    reader = Path(gemma) if gemma else own.gemma if own and not root else folder / "text_encoder"
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    text = load_text(folder, reader, dtype=dtype, device=device)
    for row in rows:
        states, mask = text.encode(caption_of(row))
        write_text(out, str(row["id"]), states.cpu(), mask.cpu())


def _encode(pipeline: WorldPipeline, video: Tensor) -> Tensor:
    import torch

    codec: Any = pipeline.codec
    with torch.no_grad():
        return codec.encode(video.to(pipeline.device, codec.dtype))

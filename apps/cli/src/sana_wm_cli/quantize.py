"""sana-wm quantize: a smaller copy of a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Write a smaller copy of a model folder.",
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def quantize(
    source: Annotated[Path, typer.Argument(help="Model folder in any layout, or pocket.", metavar="SOURCE")],
    target: Annotated[Path, typer.Argument(help="Folder to write; new or empty.", metavar="TARGET")],
    precision: Annotated[str, typer.Option("--precision", help="bf16, fp8 or fp4 (NVFP4).")] = "fp8",
    allow_camera_error: Annotated[
        bool, typer.Option("--allow-camera-error", "--allow_camera_error", help="Write it even if it loses the camera.")
    ] = False,
) -> None:
    """Write a smaller copy of a model folder.

    Weights that nothing here runs are left out: Gemma-3's picture tower,
    LTX-2's sound, optimisers. The linear layers of both transformers take one
    byte a weight with fp8, and little more than half a byte with fp4. A model
    that answers its camera by more than a tenth differently is not written;
    whether it follows it as well as before says sana-wm bench.
    """
    from sana_wm_core.fidelity import LIMIT
    from sana_wm_core.shrink import shrink

    written, error = shrink(source, target, precision, float("inf") if allow_camera_error else LIMIT)
    for file in written:
        less = f"{file.before / 1e9:.3f} -> {file.after / 1e9:.3f} GB"
        typer.echo(f"{file.name}: {less}" + (f", {file.dropped} unused tensors left out" if file.dropped else ""))
    before, after = sum(file.before for file in written), sum(file.after for file in written)
    typer.echo(f"{target}: {before / 1e9:.3f} -> {after / 1e9:.3f} GB; answers the camera {error:.1%} differently")

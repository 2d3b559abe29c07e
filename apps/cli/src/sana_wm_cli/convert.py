"""sana-wm convert: a model folder in the other published layout."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Turn a model folder from NVlabs' layout to diffusers' and back.",
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="Model folder, NVlabs' or diffusers' layout.", metavar="SOURCE")],
    target: Annotated[Path, typer.Argument(help="Folder to write; new or empty.", metavar="TARGET")],
    to: Annotated[str | None, typer.Option("--to", help="diffusers or nvlabs. (the other one)")] = None,
) -> None:
    """Turn a model folder from NVlabs' layout to diffusers' and back.

    Tensors keep their bits; there and back gives what there was. Codec, text
    encoder and refiner are linked, so the copy takes little room.
    """
    from sana_wm_core.convert import convert as write

    written = write(source, target, to)
    note = (
        "" if written == "nvlabs" or (target / "text_encoder").is_dir() else "; add text_encoder/ and tokenizer/ to it"
    )
    typer.echo(f"{target}: {written} layout{note}")

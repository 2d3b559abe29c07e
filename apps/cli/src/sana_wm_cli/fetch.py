"""sana-wm fetch: downloads a released model, after saying what will come, how large it is and under which licence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sana_wm_core.inventory import Found

app = typer.Typer(
    help="Download a released model, going on where an earlier try stopped.",
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def fetch(
    model: Annotated[str, typer.Argument(help="bidirectional, chunk_causal, streaming, diffusers, or a hub id.")],
    no_refiner: Annotated[
        bool, typer.Option("--no-refiner", "--no_refiner", help="Leave the second stage (84 GB) out.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be downloaded.")] = False,
) -> None:
    """Download a released model, going on where an earlier try stopped.

    Files go to the hub library's cache, where every command finds them; what
    is there already is not fetched again.
    """
    import shutil

    from sana_wm_core.inventory import cache_folder, look
    from sana_wm_core.releases import parts_of, release_of

    hub_id = release_of(model)
    found = [look(part) for part in parts_of(hub_id, refiner=not no_refiner)]
    for entry in found:
        typer.echo(describe(entry))
    missing = [entry for entry in found if not entry.ready]
    if not missing:
        typer.echo(f"{hub_id}: everything is here")
        return
    wanted = sum(entry.part.gigabytes or 0 for entry in missing)
    cache = cache_folder()
    standing = next(path for path in (cache, *cache.parents) if path.exists())
    free = shutil.disk_usage(standing).free / 1e9
    typer.echo(f"to fetch: about {wanted:g} GB into {cache} ({free:.0f} GB free there)")
    if wanted > free:
        raise ValueError(
            f"{cache}: {free:.0f} GB free, about {wanted:g} GB are needed; free some space, set HF_HOME to another "
            "disk, or leave the second stage out with --no-refiner"
        )
    if dry_run:
        return
    for entry in missing:
        download(entry)
    typer.echo(f"{hub_id}: everything is here; sana-wm generate --model {hub_id}")


def describe(entry: Found) -> str:
    """One line on a part: whether it is here, its size, its licence."""
    part = entry.part
    size = "size not published" if part.gigabytes is None else f"{part.gigabytes:g} GB"
    state = "missing"
    if entry.files:
        state = f"{entry.files} files, {entry.bytes / 1e9:.1f} GB"
        state = f"damaged ({entry.problems[0]})" if entry.problems else f"here ({state})"
    return f"{part.what} [{part.repository}, {size}]: {state}; {part.licence}"


def download(entry: Found) -> None:
    """Fetch a part; the hub library goes on where an earlier try stopped."""
    from sana_wm_core.inventory import download_part

    part = entry.part
    try:
        download_part(part)
    except KeyboardInterrupt:
        typer.echo("stopped; the same command goes on from here", err=True)
        raise typer.Exit(130) from None
    except Exception as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise ValueError(
            f"{part.repository}: {part.what} cannot be downloaded ({type(error).__name__}: {reason}); the same command "
            "goes on from here once it can"
        ) from error

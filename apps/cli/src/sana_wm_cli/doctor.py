"""sana-wm doctor: before a GPU second is spent, what this machine can run, what is missing, and what it takes."""

from __future__ import annotations

import json
import os
import platform
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    help="Say what this machine can run, what is missing and what it takes.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
_PACKAGES = [
    *("sana-wm", "sana-wm-core", "sana-wm-refiner", "gdn-kernels", "torch", "triton"),
    *("diffusers", "transformers", "torchao", "av", "huggingface_hub"),
]


@app.command()
def doctor(
    model: Annotated[
        str, typer.Option("--model", help="pocket, bidirectional, chunk_causal, streaming, ...")
    ] = "pocket",
    no_refiner: Annotated[
        bool, typer.Option("--no-refiner", "--no_refiner", help="Plan without a second stage.")
    ] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Also compare hashes; reads every file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of lines.")] = False,
) -> None:
    """Say what this machine can run, what is missing and what it takes.

    Nothing is loaded and nothing is downloaded. Memory and times of released
    models are the published ones; none of them was measured here.
    """
    report = {
        "machine": machine(),
        "kernels": kernels(),
        "versions": versions(),
        "model": plan(model, no_refiner, verify),
    }
    if as_json:
        typer.echo(json.dumps(report))
        return
    for title, values in report.items():
        typer.echo(title)
        for name, value in values.items():
            for line in value if isinstance(value, list) else [value]:
                typer.echo(f"  {name}: {line}")


def machine() -> dict[str, Any]:
    """Processor, memory, GPUs and disk."""
    import torch

    here = shutil.disk_usage(Path.cwd())
    found: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "processor": f"{os.cpu_count()} cores",
        "memory": _memory(),
        "disk": f"{here.free / 1e9:.0f} GB free in this folder",
    }
    gpus = []
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        gpus.append(
            f"cuda:{index} {facts.name}, {total / 1e9:.0f} GB ({free / 1e9:.0f} GB free), sm_{facts.major}{facts.minor}"
        )
    found["gpu"] = gpus or ["none that PyTorch can use; the pocket world runs without"]
    return found


def _memory() -> str:
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        total, free = page * os.sysconf("SC_PHYS_PAGES"), page * os.sysconf("SC_AVPHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return "unknown"
    return f"{total / 1e9:.0f} GB ({free / 1e9:.0f} GB free)"


def kernels() -> dict[str, Any]:
    """Which implementation of the recurrence runs here, and why; which number formats are in hardware."""
    import torch
    from gdn_kernels import backend
    from sana_wm_core.precision import runs_in_hardware

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    like = torch.empty(1, device=device, dtype=torch.bfloat16)
    chosen, why = backend.choose("auto", like, 112), ""
    if not chosen.startswith("triton"):
        try:
            backend.choose("triton", like, 112)
        except ValueError as error:
            why = f" ({error})"
    formats = {name: "in hardware" if runs_in_hardware(name, device) else "stored only" for name in ("fp8", "fp4")}
    return {"recurrence": f"{chosen}{why}"} | formats


def versions() -> dict[str, str]:
    """Installed versions of what matters."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def plan(model: str, no_refiner: bool, verify: bool) -> dict[str, Any]:
    """What a model needs: files, downloads, licences, memory and time.

    Raises:
        ValueError: Not a released model, nor the pocket world, nor a model folder.
    """
    import torch
    from sana_wm_core.inventory import look
    from sana_wm_core.releases import BUNDLED, NEEDS, parts_of, release_of

    from sana_wm_cli.fetch import describe

    if model in BUNDLED:
        return {
            model: "here, inside the package; Apache-2.0",
            "to fetch": "nothing",
            "needs": "under 2 GB of memory; no GPU",
        }
    if Path(model).expanduser().is_dir():
        return _folder(Path(model).expanduser(), verify)
    hub_id = release_of(model)
    found = [look(part, verify=verify) for part in parts_of(hub_id, refiner=not no_refiner)]
    missing = [entry for entry in found if not entry.ready]
    gigabytes = sum(entry.part.gigabytes or 0 for entry in missing)
    unknown = any(entry.part.gigabytes is None for entry in missing)
    needs = [f"{need.setting}: {need.gigabytes:g} GB, {need.speed} ({need.source})" for need in NEEDS[hub_id]]
    if torch.cuda.is_available():
        have = max(torch.cuda.mem_get_info(index)[1] for index in range(torch.cuda.device_count())) / 1e9
        fits = [need.setting for need in NEEDS[hub_id] if need.gigabytes <= have]
        needs.append(f"fits this GPU ({have:.0f} GB): {', '.join(fits) or 'none without --offload_blocks'}")
    return {
        "release": hub_id,
        "part": [describe(entry) for entry in found],
        "problem": [text for entry in found for text in entry.problems],
        "to fetch": f"about {gigabytes:g} GB{' and a part of unpublished size' if unknown else ''}"
        if missing
        else "nothing",
        "published need": needs,
    }


def _folder(folder: Path, verify: bool) -> dict[str, Any]:
    from sana_wm_core.inventory import problem_of
    from sana_wm_core.layouts import layout_of

    kinds = (".safetensors", ".pt", ".json", ".yaml", ".model")
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix in kinds]
    problems = [
        f"{path.parent.relative_to(folder)}/{text}"
        for path in files
        if (text := problem_of(path, verify=verify)) is not None
    ]
    size = sum(path.stat().st_size for path in files)
    return {
        "folder": f"{folder} ({layout_of(folder)} layout, {len(files)} files, {size / 1e9:.2f} GB)",
        "problem": problems or ["none found"],
        "to fetch": "nothing",
    }

"""What to change when a GPU's memory does not suffice: the smallest thing that would."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from sana_wm_core.layouts import World

    from sana_wm_cli.inputs import Request
    from sana_wm_cli.refining import RefinerPlan

_UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_ASKED = re.compile(r"Tried to allocate ([\d.]+) ([KMG]iB)")
_FREE = re.compile(r"([\d.]+) ([KMG]iB) is free")


class Change(NamedTuple):
    """A flag, and the bytes of GPU memory it frees."""

    flag: str
    bytes: int


def missing_bytes(message: str) -> int:
    """How much was missing, by PyTorch's own words; 0 where they do not say."""
    asked, free = _ASKED.search(message), _FREE.search(message)
    if asked is None or free is None:
        return 0
    wanted, had = (float(found[1]) * _UNITS[found[2]] for found in (asked, free))
    return max(0, int(wanted - had))


def possible_changes(world: World, refiner: RefinerPlan | None, request: Request, streams: bool) -> list[Change]:
    """Flags that were not given and what each would free, the smallest first."""
    from sana_wm_core.precision import STAGE_1_LAYERS
    from sana_wm_core.sampling.student import transformer_of

    pipeline = world.pipeline
    network = transformer_of(pipeline.transformer)
    layers = [tensor for name, tensor in network.named_parameters() if STAGE_1_LAYERS.search(name.rpartition(".")[0])]
    second = 0 if refiner is None else sum(path.stat().st_size for path in refiner.root.rglob("*.safetensors"))
    found = []
    if not request.offload_vae:
        found.append(Change("--offload_vae", _bytes(pipeline.codec)))
    if not request.offload_text_encoder:
        found.append(Change("--offload_text_encoder", _bytes(pipeline.text_encoder)))
    if request.stage1_precision == "bf16":
        found.append(Change("--stage1_precision fp8", sum(tensor.nbytes for tensor in layers) // 2))
    if refiner is not None and refiner.precision == "bf16":
        found.append(Change("--refiner_precision fp8", second // 2))
    if refiner is not None and not request.offload_refiner and not streams:
        found.append(Change("--offload_refiner", _bytes(network)))
    if not request.offload_blocks:
        found.append(Change("--offload_blocks", _bytes(network.blocks) + second))
    return sorted((change for change in found if change.bytes), key=lambda change: change.bytes)


def smallest_change(changes: list[Change], missing: int) -> str:
    """One line that says what would fit: one flag if one suffices, else several, else fewer frames too."""
    lack = f"{missing / 1e9:.1f} GB of GPU memory were missing" if missing else "the GPU is out of memory"
    enough = [change for change in changes if change.bytes >= missing]
    if enough:
        return f"{lack}; the smallest change that fits: {enough[0].flag} (frees {enough[0].bytes / 1e9:.1f} GB)"
    chosen, freed = [], 0
    for change in reversed(changes):
        chosen.append(change.flag)
        freed += change.bytes
        if freed >= missing:
            return f"{lack}; the smallest change that fits: {' '.join(chosen)} (frees {freed / 1e9:.1f} GB)"
    flags = f"{' '.join(chosen)} (frees {freed / 1e9:.1f} GB) and " if chosen else ""
    return f"{lack}; use {flags}fewer --num_frames or a smaller --height and --width"


def _bytes(part: Any) -> int:
    tensors = [*part.parameters(), *part.buffers()] if hasattr(part, "parameters") else []
    return sum(tensor.nbytes for tensor in tensors)

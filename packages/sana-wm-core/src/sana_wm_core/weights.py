"""Names in public checkpoints to names here, and reading and writing the files that hold them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sana_wm_core.config import TransformerConfig
from sana_wm_core.stored import is_scale, restored, stored_shape

if TYPE_CHECKING:
    from sana_wm_core.model import SanaWMTransformer

CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
INDEX = WEIGHTS + ".index.json"
CLASS_NAME = "SanaWMTransformer3DModel"

_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
_RENAMED = {"t_embedder.mlp.0.": "t_embedder.linear_1.", "t_embedder.mlp.2.": "t_embedder.linear_2."}
# The absolute position table and the null caption of training; no forward pass reads them.
_DROPPED = ("pos_embed", "y_embedder.y_embedding")


def load_transformer(
    path: str | Path,
    subfolder: str | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
) -> SanaWMTransformer:
    """Load a transformer from a folder, a single file or a hub id, in eval mode.

    Args:
        path: A diffusers folder (config.json with one or several safetensors files), a .safetensors file with the
            names of either publisher or a .pt training checkpoint of the streaming release (a config.json beside it is
            read, else the released sizes are assumed), or a hub id such as
            Efficient-Large-Model/SANA-WM_bidirectional-diffusers.
        subfolder: Folder inside the path or repository, usually "transformer".
        dtype: Data type of the weights; None keeps that of the files.
        device: Where the weights go.

    Raises:
        ValueError: Nothing there, a damaged file, or names and shapes that do not fit; one line.
    """
    from sana_wm_core.model import SanaWMTransformer

    source = _locate(path, subfolder)
    folder = source if source.is_dir() else source.parent
    files = _weight_files(source)
    if (folder / CONFIG).is_file() or source.is_dir():
        config = read_config(folder / CONFIG)
    else:
        config = TransformerConfig()
    with torch.device("meta"):
        model = SanaWMTransformer(config)
    wanted = model.state_dict()
    state: dict[str, Tensor] = {}
    wrong: list[str] = []
    for file in files:
        for name, tensor in _tensors(file, wanted, wrong):
            state[name] = tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)
    # Scratch values the model carries but never reads may be absent.
    for name in [name for name in wanted if name.endswith("recall_gate") and name not in state]:
        state[name] = torch.zeros(wanted[name].shape, dtype=dtype, device=device)
    wrong += [f"{name} is missing" for name in wanted if name not in state and not any(name in w for w in wrong)]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(f"{source}: the weights do not fit the config: {'; '.join(wrong[:3])}{more}")
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(True)


def save_transformer(model: SanaWMTransformer, folder: str | Path) -> None:
    """Write config.json and the weights so that diffusers' class reads them; each appears whole or not at all."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{WEIGHTS}.{os.getpid()}"
    try:
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        save_file(state, temporary, metadata={"format": "pt"})
        os.replace(temporary, folder / WEIGHTS)
        text = json.dumps({"_class_name": CLASS_NAME, **model.config.to_dict()}, indent=2) + "\n"
        temporary = folder / f".{CONFIG}.{os.getpid()}"
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, folder / CONFIG)
    finally:
        temporary.unlink(missing_ok=True)


def read_config(path: Path) -> TransformerConfig:
    """Read a config.json.

    Raises:
        ValueError: Not there, not JSON, an unknown field or a value out of range; one line.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file; a diffusers folder holds {CONFIG} and {WEIGHTS}") from error
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: not readable JSON ({error}); fetch the file again") from error
    if not isinstance(values, dict):
        raise ValueError(f'{path}: expected named fields, for example {{"num_layers": 20}}')
    return TransformerConfig.from_dict(values, str(path))


def published_name(name: str) -> str | None:
    """The name a tensor of either public checkpoint has here; None for tensors that are left out."""
    name = name.removeprefix("model.")
    if name in _DROPPED:
        return None
    for old, new in _RENAMED.items():
        if name.startswith(old):
            return new + name[len(old) :]
    return name


def _locate(path: str | Path, subfolder: str | None) -> Path:
    local = Path(path).expanduser()
    if local.exists():
        found = local / subfolder if subfolder else local
        if not found.exists():
            raise ValueError(f"{found}: no such folder; {local} holds {_listing(local)}")
        return found
    hub_id = str(path).removeprefix("hf://")
    if not _HUB_ID.match(hub_id) or str(path).startswith((".", "/", "~")):
        raise ValueError(
            f"{path}: no such file or folder; allowed are a diffusers folder, a .safetensors file or a hub id, "
            "for example Efficient-Large-Model/SANA-WM_bidirectional-diffusers"
        )
    return _fetch(hub_id, subfolder)


def _fetch(hub_id: str, subfolder: str | None) -> Path:
    from huggingface_hub import snapshot_download

    nvlabs = not hub_id.endswith("-diffusers") and subfolder in (None, "dit")
    inside = subfolder or ("dit" if nvlabs else "transformer")
    wanted = "dit/sana_wm_1600m_720p.safetensors" if nvlabs else f"{inside}/{CONFIG} and {inside}/{WEIGHTS[:-12]}*"
    patterns = [f"{inside}/*.json", f"{inside}/*.safetensors"]
    for offline in (True, False):
        try:
            root = Path(snapshot_download(hub_id, allow_patterns=patterns, local_files_only=offline))
        except Exception as error:
            if offline:
                continue
            reason = " ".join(str(error).split())[:120] or "no answer"
            raise ValueError(
                f"{hub_id}: not on this machine and not downloadable ({type(error).__name__}: {reason}); needed: "
                f"{wanted} (about 10.6 GB for the released transformer); fetch it elsewhere with "
                f"'hf download {hub_id}' and pass its folder or file instead"
            ) from error
        if (root / inside).is_dir() and list((root / inside).glob("*.safetensors")):
            files = sorted((root / inside).glob("*.safetensors"))
            return files[0] if nvlabs and len(files) == 1 else root / inside
    raise ValueError(f"{hub_id}: the repository holds no {wanted}; give the folder of the weights as subfolder")


def _weight_files(source: Path) -> list[Path]:
    if source.is_file():
        if source.suffix not in (".safetensors", ".pt", ".pth"):
            raise ValueError(f"{source}: weights are read from .pt and .safetensors files only, for example {WEIGHTS}")
        return [source]
    if (source / WEIGHTS).is_file():
        return [source / WEIGHTS]
    if not (source / INDEX).is_file():
        raise ValueError(f"{source}: no weights here; expected {WEIGHTS} or {INDEX}, found {_listing(source)}")
    try:
        shards = sorted(set(json.loads((source / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
        files = [source / Path(shard).name for shard in shards]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{source / INDEX}: not a readable index ({error}); fetch the file again") from error
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise ValueError(f"{source}: {len(missing)} of {len(files)} weight files missing, first {missing[0]}")
    return files


def _tensors(file: Path, wanted: dict[str, Any], wrong: list[str]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a file that fit; what does not is described in `wrong` without being read."""
    if file.suffix != ".safetensors":
        # A training checkpoint: the generator's tensors, whose names begin with `model.`.
        tensors = read_checkpoint(file)
        yield from _fitting(set(tensors), tensors.__getitem__, tensors.__getitem__, wanted, wrong)
        return
    try:
        with safe_open(file, "pt") as opened:
            yield from _fitting(set(opened.keys()), opened.get_tensor, opened.get_slice, wanted, wrong)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file}: damaged or cut short ({' '.join(str(error).split())}); fetch it again") from error


def _fitting(
    held: set[str],
    get: Callable[[str], Tensor],
    peek: Callable[[str], Any],
    wanted: dict[str, Any],
    wrong: list[str],
) -> Iterator[tuple[str, Tensor]]:
    for stored in sorted(held):
        name = published_name(stored)
        if name is None or is_scale(stored, held):
            continue
        if name not in wanted:
            wrong.append(f"{stored} is unknown")
            continue
        shape = tuple(wanted[name].shape)
        found = peek(stored)
        found = tuple(found.shape if isinstance(found, Tensor) else found.get_shape())
        if found != stored_shape(stored, held, shape):
            wrong.append(f"{name} is {found}, expected {shape}")
        else:
            yield name, restored(stored, held, get, shape)


def read_checkpoint(file: Path) -> dict[str, Tensor]:
    """Tensors of the model in a .pt training checkpoint, as they are named there; nothing in it is executed.

    The file may hold {"generator": ...} beside optimisers, {"state_dict": ...}, or the tensors themselves. Only what is
    used is read from the disk.

    Raises:
        ValueError: Damaged, holding more than tensors and plain values, or without a model.
    """
    try:
        held = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, UnpicklingError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ValueError(f"{file}: damaged, or more than weights in it ({reason}); fetch it again") from error
    for key in ("generator", "state_dict"):
        if isinstance(held, dict) and isinstance(held.get(key), dict):
            held = held[key]
            break
    tensors = {str(n): t for n, t in held.items() if isinstance(t, Tensor)} if isinstance(held, dict) else {}
    if not tensors:
        raise ValueError(f"{file}: no model in there; expected weights under 'generator' or 'state_dict'")
    return tensors


def _listing(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    return ", ".join(names[:5]) + (" ..." if len(names) > 5 else "") or "nothing"

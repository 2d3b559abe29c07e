"""Finds the refiner's parts in the published folders and loads only what refining needs."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from refiner.text import RefinerText, SilentConnector

# LTX-2 makes sound too; none of these is run.
_UNUSED = ("audio", "av_cross_attn", "video_a2v", "video_to_audio", "a2v", "v2a")


def load_refiner(
    root: str | Path,
    gemma_root: str | Path | None = None,
    *,
    dtype: torch.dtype = torch.bfloat16,
    device: str | torch.device = "cpu",
) -> tuple[nn.Module, RefinerText]:
    """Load both halves of the refiner: the transformer and the text path.

    Args:
        root: Folder with transformer/ and connectors/.
        gemma_root: Folder of Gemma-3 and its tokenizer; None = text_encoder/ in root.
        dtype: Data type of the weights.
        device: Where they go.

    Raises:
        ValueError: A part is missing, damaged or of another model; one line.
    """
    transformer = load_transformer(Path(root) / "transformer", dtype=dtype, device=device)
    return transformer, load_text(root, gemma_root, dtype=dtype, device=device)


def load_transformer(
    folder: str | Path, *, dtype: torch.dtype = torch.bfloat16, device: str | torch.device = "cpu"
) -> nn.Module:
    """Load the video stream of an LTX-2 transformer (diffusers layout); its audio weights are neither read nor kept.

    Raises:
        ValueError: Missing, damaged or of another model.
    """
    from diffusers.models.transformers.transformer_sana_wm_refiner import SanaWMLTX2RefinerTransformer3DModel

    folder = Path(folder)
    config = _read_config(folder)
    if config.get("cross_attn_mod") or config.get("use_prompt_embeddings") is False:
        raise ValueError(f"{folder}: an LTX-2.3 transformer; the refiner was made from LTX-2.0 (cross_attn_mod false)")
    with torch.device("meta"):
        model = SanaWMLTX2RefinerTransformer3DModel(**_known(config, SanaWMLTX2RefinerTransformer3DModel))
    drop_audio(model)
    _fill(model, folder, dtype, device)
    return model.eval().requires_grad_(False)


def load_text(
    root: str | Path,
    gemma_root: str | Path | None = None,
    *,
    dtype: torch.dtype = torch.bfloat16,
    device: str | torch.device = "cpu",
) -> RefinerText:
    """Load Gemma-3's text stack, its tokenizer and LTX-2's video connector; pictures and sound are left out.

    Raises:
        ValueError: Missing, damaged or of another model.
    """
    from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors

    folder = Path(root) / "connectors"
    config = _read_config(folder)
    with torch.device("meta"):
        connectors: nn.Module = LTX2TextConnectors(**_known(config, LTX2TextConnectors))
    connectors.audio_connector = SilentConnector()
    _fill(connectors, folder, dtype, device)
    gemma = Path(gemma_root) if gemma_root is not None else Path(root) / "text_encoder"
    tokenizer, model, layers = _load_gemma(gemma, dtype)
    factor = int(config.get("text_proj_in_factor", 49))
    if layers + 1 != factor:
        raise ValueError(f"{gemma}: Gemma-3 with {layers} layers; the connectors expect {factor - 1}")
    return RefinerText(tokenizer, model.to(device), connectors)


def drop_audio(model: nn.Module) -> None:
    """Take the parts that make sound out of an LTX-2 transformer, in place."""
    for module in [model, *model.modules()]:
        for name in [*module._modules, *module._parameters]:
            if name.startswith(_UNUSED):
                delattr(module, name)


def _load_gemma(folder: Path, dtype: torch.dtype) -> tuple[Any, nn.Module, int]:
    from transformers import AutoConfig, AutoTokenizer, Gemma3TextModel

    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder}: no Gemma-3 there (config.json is missing); give --refiner_gemma_root FOLDER")
    # The same tensors under the names of the text stack, of a causal language model and of the picture-reading model.
    names = {r"^(?:model\.)?language_model\.(?:model\.)?": "", r"^model\.(?!vision|language)": ""}
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        config = getattr(config, "text_config", config)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model, fit = Gemma3TextModel.from_pretrained(
            folder, config=config, dtype=dtype, local_files_only=True, key_mapping=names, output_loading_info=True
        )
    except (OSError, SafetensorError, ValueError, RuntimeError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder}: Gemma-3 cannot be read ({_one_line(error)}); fetch it again") from error
    missing = sorted(fit["missing_keys"])
    if missing or fit["mismatched_keys"]:
        raise ValueError(f"{folder}: Gemma-3 lacks {len(missing)} weights, first {missing[:1]}; fetch it again")
    return tokenizer, model, int(config.num_hidden_layers)


def _known(config: dict[str, Any], kind: Callable[..., Any]) -> dict[str, Any]:
    accepted = inspect.signature(kind).parameters
    return {name: value for name, value in config.items() if name in accepted}


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(
            f"{path}: no such file; the refiner's folder (--refiner_root) holds transformer/ and connectors/"
        ) from error
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: not readable JSON ({_one_line(error)}); fetch it again") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected named fields; fetch it again")
    return values


def _fill(model: nn.Module, folder: Path, dtype: torch.dtype, device: str | torch.device) -> None:
    """Give a model on the meta device the weights of a folder; what it does not have is not read."""
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    state: dict[str, Tensor] = {}
    for name, tensor in _tensors(folder, wanted):
        state[name] = tensor.to(device, dtype if tensor.is_floating_point() else None)
    missing = sorted(set(wanted) - set(state))
    if missing:
        raise ValueError(f"{folder}: {len(missing)} weights are missing, first {missing[0]}; fetch it again")
    model.load_state_dict(state, assign=True)


def _tensors(folder: Path, wanted: dict[str, tuple[int, ...]]) -> Iterator[tuple[str, Tensor]]:
    for file in _files(folder):
        try:
            with safe_open(file, "pt") as opened:
                held = set(opened.keys())
                for name in sorted(held & set(wanted)):
                    shape = wanted[name]
                    packed = f"{name}_scale_2" in held
                    stored = tuple(opened.get_slice(name).get_shape())
                    if stored != ((shape[0], shape[1] // 2) if packed else shape):
                        raise ValueError(f"{file}: {name} is {stored}, the config says {shape}; fetch it again")
                    tensor = opened.get_tensor(name)
                    # sana-wm quantize stores linear layers in float8 with a scale per row, or in NVFP4.
                    if packed:
                        tensor = _from_float4(tensor)
                        step = opened.get_tensor(f"{name}_scale").float() * opened.get_tensor(f"{name}_scale_2")
                        tensor *= step.repeat_interleave(shape[1] // step.shape[1], dim=1)
                    elif f"{name}_scale" in held:
                        tensor = tensor.float() * opened.get_tensor(f"{name}_scale")
                    yield name, tensor
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{file}: damaged or cut short ({_one_line(error)}); fetch it again") from error


def _from_float4(packed: Tensor) -> Tensor:
    """Values (out, in) float32 of e2m1 pairs (out, in / 2), the first of each in the low half of its byte."""
    code = torch.stack([packed & 15, packed >> 4], dim=-1).flatten(1)
    exponent, mantissa = (code >> 1 & 3).float(), (code & 1).float()
    size = torch.where(exponent == 0, mantissa / 2, (1 + mantissa / 2) * torch.exp2(exponent - 1))
    return torch.where(code >= 8, -size, size)


def _files(folder: Path) -> list[Path]:
    indices = sorted(folder.glob("*.safetensors.index.json"))
    if not indices:
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise ValueError(f"{folder}: no .safetensors file there; fetch it again")
        return files
    try:
        shards = sorted(set(json.loads(indices[0].read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{indices[0]}: not a readable index ({_one_line(error)}); fetch it again") from error
    files = [folder / Path(shard).name for shard in shards]
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise ValueError(f"{folder}: {len(absent)} of {len(files)} weight files are missing, first {absent[0]}")
    return files


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160]

"""Write a tiny random model in every layout in which SANA-WM is published, to try the real commands without 100 GB.

    python scripts/tiny_models.py out/tiny
    sana-wm generate --model out/tiny/SANA-WM_streaming --image photo.jpg --prompt "a street" --action "w-48" \
        --height 64 --width 96 --fov 70

Every parameter is drawn, so that no branch is silent; pictures are noise. File names, tensor names and the folders are
the published ones (inference 10); sizes are not, so a config.json lies beside the transformer files.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLLTX2Video, FlowMatchEulerDiscreteScheduler, SanaWMTransformer3DModel
from diffusers.models.transformers.transformer_sana_wm_refiner import SanaWMLTX2RefinerTransformer3DModel
from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    Gemma2Config,
    Gemma2Model,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    PreTrainedTokenizerFast,
)

CHANNELS, TEXT_WIDTH, REFINER_TEXT_WIDTH = 8, 32, 24
GEMMA = dict(
    vocab_size=128,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    pad_token_id=0,
    eos_token_id=1,
    bos_token_id=2,
)
CONFIG = """model: {chunk_size: 3, chunk_split_strategy: first_chunk_plus_one}
scheduler: {flow_shift: 9.95, inference_flow_shift: 9.8, vis_sampler: VIS_SAMPLER}
text_encoder: {model_max_length: 40, chi_prompt: ["Say: "]}
"""


def draw(module: Any, seed: int, scale: float = 0.7) -> Any:
    """Draw every parameter anew: matrices of that gain, vectors about one for norms and about zero for biases."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise * scale / max(1.0, parameter[0].numel() ** 0.5))
            else:
                parameter.copy_(noise * 0.1 + ("norm" in name and "gemma" not in type(module).__name__.lower()))
    return module.eval()


def tokenizer(**more: Any) -> PreTrainedTokenizerFast:
    """A tokenizer of single characters."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    vocab = {piece: i for i, piece in enumerate(special + [chr(c) for c in range(32, 127)] + ["\n"])}
    raw = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    raw.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=raw, **names, **more)


def vae(causal: bool) -> AutoencoderKLLTX2Video:
    """The codec; its encoder is the same in both releases."""
    model = AutoencoderKLLTX2Video(
        latent_channels=CHANNELS,
        block_out_channels=(8, 16, 32, 64),
        decoder_block_out_channels=(8, 16, 32),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1),
        decoder_causal=causal,
        spatial_compression_ratio=32,
        temporal_compression_ratio=8,
    )
    draw(model, 1, 1.0)
    generator = torch.Generator().manual_seed(2)
    model.latents_mean.copy_(torch.randn(CHANNELS, generator=generator) * 0.2)
    model.latents_std.copy_(torch.rand(CHANNELS, generator=generator) + 0.5)
    return model


def transformer() -> SanaWMTransformer3DModel:
    """The world model: three linear blocks and one that attends."""
    model = SanaWMTransformer3DModel(
        in_channels=CHANNELS,
        num_layers=4,
        hidden_size=48,
        num_attention_heads=2,
        linear_head_dim=24,
        chunk_plucker_post_attn_blocks=4,
        caption_channels=TEXT_WIDTH,
    )
    return draw(model, 3)


def gemma2() -> Gemma2Model:
    """The text encoder of the first stage."""
    sizes = dict(hidden_size=TEXT_WIDTH, intermediate_size=48, head_dim=16, sliding_window=64)
    return draw(Gemma2Model(Gemma2Config(**GEMMA, **sizes, max_position_embeddings=4096)), 4, 1.0)


def gemma3() -> Gemma3ForConditionalGeneration:
    """The text encoder of the second stage, with the picture reader that it is published with."""
    text = GEMMA | dict(hidden_size=REFINER_TEXT_WIDTH, intermediate_size=32, head_dim=12, sliding_window=32)
    sight = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    sight |= {"image_size": 28, "patch_size": 14}
    config = Gemma3Config(text_config=text, vision_config=sight, mm_tokens_per_image=1, image_token_index=127)
    return draw(Gemma3ForConditionalGeneration(config), 7, 1.0)


def refiner_network(rope_type: str = "split", gated: bool = False) -> SanaWMLTX2RefinerTransformer3DModel:
    """The second stage, with the sound that it is published with."""
    network = SanaWMLTX2RefinerTransformer3DModel(
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_attention_heads=2,
        attention_head_dim=16,
        cross_attention_dim=32,
        audio_in_channels=4,
        audio_out_channels=4,
        audio_num_attention_heads=2,
        audio_attention_head_dim=4,
        audio_cross_attention_dim=8,
        num_layers=2,
        caption_channels=REFINER_TEXT_WIDTH,
        rope_type=rope_type,
        gated_attn=gated,
    )
    return draw(network, 5)


def connectors(rope_type: str = "split", registers: int = 128) -> LTX2TextConnectors:
    """What turns Gemma-3's states into captions for the second stage."""
    sizes = {"num_attention_heads": 2, "attention_head_dim": 12, "num_learnable_registers": registers}
    both = {f"{kind}_connector_{name}": size for kind in ("video", "audio") for name, size in sizes.items()}
    width = {"caption_channels": REFINER_TEXT_WIDTH, "text_proj_in_factor": 3}
    return draw(LTX2TextConnectors(**width, **both, rope_type=rope_type), 6)


def write_refiner(root: Path, gemma_root: Path) -> None:
    """Write the second stage, sound and picture-reading weights included, as they are published."""
    refiner_network().save_pretrained(root / "transformer")
    connectors().save_pretrained(root / "connectors")
    gemma3().save_pretrained(gemma_root)
    tokenizer().save_pretrained(gemma_root)


def nvlabs_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """diffusers' tensors under NVlabs' names, with the two that only training used."""
    renamed = {"t_embedder.linear_1.": "t_embedder.mlp.0.", "t_embedder.linear_2.": "t_embedder.mlp.2."}
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        for ours, theirs in renamed.items():
            name = name.replace(ours, theirs)
        out[name] = tensor.contiguous()
    out["y_embedder.y_embedding"] = torch.randn(40, TEXT_WIDTH, generator=torch.Generator().manual_seed(8))
    out["pos_embed"] = torch.randn(1, 6, 48, generator=torch.Generator().manual_seed(9))
    return out


def write_all(folder: Path) -> None:
    """Write SANA-WM_bidirectional, _chunk_causal, _streaming, _bidirectional-diffusers and gemma-2-2b-it."""
    network, text, words = transformer(), gemma2(), tokenizer()
    config = json.dumps(dict(network.config), default=list)
    names = nvlabs_names(network.state_dict())

    text.save_pretrained(folder / "gemma-2-2b-it")
    words.save_pretrained(folder / "gemma-2-2b-it")

    releases = (
        ("SANA-WM_bidirectional", "sana_wm_1600m_720p", "flow_dpm-solver"),
        ("SANA-WM_chunk_causal", "sana_wm_chunk_causal_1600m_720p", "chunk_flow_euler"),
    )
    for release, file, sampler in releases:
        home = folder / release
        (home / "dit").mkdir(parents=True, exist_ok=True)
        save_file(names, home / "dit" / f"{file}.safetensors")
        (home / "dit" / "config.json").write_text(config)
        (home / "config.yaml").write_text(CONFIG.replace("VIS_SAMPLER", sampler))
    home = folder / "SANA-WM_bidirectional"
    vae(causal=False).save_pretrained(home / "vae")
    write_refiner(home / "refiner", home / "refiner" / "text_encoder")

    home = folder / "SANA-WM_streaming"
    (home / "sana_dit").mkdir(parents=True, exist_ok=True)
    generator = {f"model.{name}": tensor for name, tensor in names.items()}
    optimiser = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-5}]}
    held = {"generator": generator, "critic": {"model.x": torch.zeros(2)}, "generator_optimizer": optimiser, "step": 7}
    torch.save(held, home / "sana_dit" / "model.pt")
    (home / "sana_dit" / "config.json").write_text(config)
    vae(causal=True).save_pretrained(home / "ltx2_causal_vae")
    write_refiner(home / "refiner_diffusers", home / "gemma3_12b")

    home = folder / "SANA-WM_bidirectional-diffusers"
    network.save_pretrained(home / "transformer")
    text.save_pretrained(home / "text_encoder")
    words.save_pretrained(home / "tokenizer")
    vae(causal=False).save_pretrained(home / "vae")
    FlowMatchEulerDiscreteScheduler(shift=9.8).save_pretrained(home / "scheduler")
    index = {
        "_class_name": "SanaWMPipeline",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "Gemma2Model"],
        "tokenizer": ["transformers", "GemmaTokenizerFast"],
        "transformer": ["diffusers", "SanaWMTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLLTX2Video"],
    }
    (home / "model_index.json").write_text(json.dumps(index, indent=2))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python scripts/tiny_models.py FOLDER")
    write_all(Path(sys.argv[1]))
    print(f"five tiny models in {sys.argv[1]}")

"""Tiny refiners with every parameter drawn, in the published layout, for the tests of this package."""

import json
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.models.transformers.transformer_sana_wm_refiner import SanaWMLTX2RefinerTransformer3DModel
from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
from diffusers.pipelines.sana_wm.refiner import SanaWMLTX2Refiner
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, PreTrainedTokenizerFast

GOLDEN = Path(__file__).parent / "golden"
CHANNELS, TEXT_WIDTH, LENGTH = 8, 24, 128


def draw(module, seed, scale=0.7):
    """Draw every parameter anew, so that no branch is silent."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            fan = max(1.0, parameter[0].numel() ** 0.5) if parameter.ndim > 1 else 10.0
            parameter.copy_(noise * scale / fan if parameter.ndim > 1 else 1.0 + noise / fan)
    return module.eval()


def tokenizer():
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    vocab = {piece: i for i, piece in enumerate(special + [chr(c) for c in range(32, 127)])}
    raw = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    raw.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<unk>"
    )


def gemma():
    text = dict(
        vocab_size=128,
        hidden_size=TEXT_WIDTH,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=12,
        sliding_window=32,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    vision = dict(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=1, image_token_index=127)
    return Gemma3ForConditionalGeneration(config)


def transformer(rope_type="split", gated=False):
    return SanaWMLTX2RefinerTransformer3DModel(
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
        caption_channels=TEXT_WIDTH,
        rope_type=rope_type,
        gated_attn=gated,
    )


def connectors(rope_type="split"):
    return LTX2TextConnectors(
        caption_channels=TEXT_WIDTH,
        text_proj_in_factor=3,
        video_connector_num_attention_heads=2,
        video_connector_attention_head_dim=12,
        video_connector_num_learnable_registers=32,
        audio_connector_num_attention_heads=2,
        audio_connector_attention_head_dim=12,
        audio_connector_num_learnable_registers=32,
        rope_type=rope_type,
    )


def build(folder, rope_type="split", gated=False):
    """Write a refiner folder as published and return diffusers' own pipeline over the same parts."""
    parts = (draw(transformer(rope_type, gated), 1), draw(connectors(rope_type), 2), draw(gemma(), 3, 1.0))
    parts[0].save_pretrained(folder / "transformer")
    parts[1].save_pretrained(folder / "connectors")
    parts[2].save_pretrained(folder / "text_encoder")
    words = tokenizer()
    words.save_pretrained(folder / "text_encoder")
    theirs = SanaWMLTX2Refiner(
        parts[0],
        parts[1],
        words,
        parts[2],
        FlowMatchEulerDiscreteScheduler(shift=1.0),
        text_max_sequence_length=LENGTH,
    )
    theirs.set_progress_bar_config(disable=True)
    return theirs


def write_golden(folder):
    """The stored weights as a transformer folder."""
    values = json.loads((GOLDEN / "config.json").read_text())
    renamed = {"base_num_frames": "pos_embed_max_pos"}
    own = {renamed.get(name, name): value for name, value in values.items()}
    drop = ("fps", "sink_frames", "block_size", "schedule_kv11", "schedule_kv6")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({n: v for n, v in own.items() if n not in drop}))
    (folder / "weights.safetensors").write_bytes((GOLDEN / "weights.safetensors").read_bytes())
    return folder

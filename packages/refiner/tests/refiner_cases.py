"""Tiny refiners with every parameter drawn, in the published layout, for the tests of this package."""

import json
from pathlib import Path

import tiny_models
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.sana_wm.refiner import SanaWMLTX2Refiner

GOLDEN = Path(__file__).parent / "golden"
CHANNELS, TEXT_WIDTH, LENGTH = tiny_models.CHANNELS, tiny_models.REFINER_TEXT_WIDTH, 128


def build(folder, rope_type="split", gated=False):
    """Write a refiner folder as published and return diffusers' own pipeline over the same parts."""
    # Fewer registers than tokens, so that their table is repeated.
    parts = (tiny_models.refiner_network(rope_type, gated), tiny_models.connectors(rope_type, 32), tiny_models.gemma3())
    for part, name in zip(parts, ("transformer", "connectors", "text_encoder"), strict=True):
        part.save_pretrained(folder / name)
    words = tiny_models.tokenizer()
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

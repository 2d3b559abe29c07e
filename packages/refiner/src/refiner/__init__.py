"""The second stage of SANA-WM: redraws a world model's latents with finer detail, as a clip or chunk by chunk."""

from importlib.metadata import version

from refiner.loading import load_refiner, load_text, load_transformer
from refiner.lora import merge_lora
from refiner.refine import SIGMAS, Refiner, RefinerState
from refiner.text import RefinerText

__all__ = [
    "SIGMAS",
    "Refiner",
    "RefinerState",
    "RefinerText",
    "load_refiner",
    "load_text",
    "load_transformer",
    "merge_lora",
]
__version__ = version("sana-wm-refiner")

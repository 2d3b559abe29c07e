"""Teaching the refiner: an adapter of LTX-2 that goes from a world model's latents to sharper ones."""

from refiner.training.adapter import RefinerLora, add_lora, save_adapter
from refiner.training.loop import RefinerTrainer, RefinerTraining
from refiner.training.objective import SigmaLaw, TruncatedFlow
from refiner.training.pairs import Pairs, degrade, write_pair

__all__ = [
    "Pairs",
    "RefinerLora",
    "RefinerTrainer",
    "RefinerTraining",
    "SigmaLaw",
    "TruncatedFlow",
    "add_lora",
    "degrade",
    "save_adapter",
    "write_pair",
]

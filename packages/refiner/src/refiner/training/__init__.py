"""Teaching the refiner: an adapter of LTX-2 that goes from a world model's latents to sharper ones."""

from refiner.training.adapter import RefinerLora, add_lora, save_adapter
from refiner.training.loop import RefinerStopped, RefinerTrainer
from refiner.training.objective import SigmaLaw, TruncatedFlow
from refiner.training.pairs import Pairs, degrade, write_pair
from refiner.training.settings import RefinerTraining, from_table

__all__ = [
    "Pairs",
    "RefinerLora",
    "RefinerStopped",
    "RefinerTrainer",
    "RefinerTraining",
    "SigmaLaw",
    "TruncatedFlow",
    "add_lora",
    "degrade",
    "from_table",
    "save_adapter",
    "write_pair",
]

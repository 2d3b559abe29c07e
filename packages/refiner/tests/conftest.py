"""Lets the test files here import refiner_cases and scripts/tiny_models.py, neither of which is on the path."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[2] / "scripts")]

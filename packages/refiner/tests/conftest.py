"""Lets the test files of this package import refiner_cases, which importmode=importlib leaves off the path."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

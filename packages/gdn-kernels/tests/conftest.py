"""Lets the test files of this package import gdn_cases, which importmode=importlib leaves off the path."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

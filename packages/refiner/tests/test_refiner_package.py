"""The package imports and knows its version."""

import re

import refiner


def test_version_is_the_installed_one() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", refiner.__version__)

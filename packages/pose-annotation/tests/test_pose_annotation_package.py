"""The package imports and knows its version."""

import re

import pose_annotation


def test_version_is_the_installed_one() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", pose_annotation.__version__)

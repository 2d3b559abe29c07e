"""The example of the README runs as printed."""

import re
from pathlib import Path


def test_readme_example(tmp_path, monkeypatch):
    readme = Path(__file__).parents[1] / "README.md"
    (example,) = re.findall(r"```python\n(.*?)```", readme.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(example, str(readme), "exec"), names)
    assert names["rows"].shape == (17, 20) and names["rays"].shape == (48, 17, 22, 40)
    assert (tmp_path / "path.npz").is_file() and (tmp_path / "path.png").is_file()

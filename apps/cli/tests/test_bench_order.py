"""sana-wm bench run with the bundled world: the methods come out in the order they must have."""

import json

from sana_wm_cli.main import app
from typer.testing import CliRunner


def test_the_pocket_stands_between_the_render_and_its_baselines(tmp_path):
    wanted = ["--scenes", "indoor_001,outdoor_city_001", "--seconds", "2", "--steps", "2", "--baselines"]
    result = CliRunner().invoke(
        app, ["bench", "run", *wanted, "--estimator", "none", "--no-cache", "--out", str(tmp_path)]
    )
    assert result.exit_code == 0, (result.output, result.exception)
    record = json.loads((tmp_path / "ranking.json").read_text())
    orders = {metric: [name for name, _ in order] for metric, order in record["orders"].items()}
    for metric in ("ref_psnr_db", "ref_ssim", "warp_gap_db"):
        assert orders[metric][:2] == ["render", "pocket"] and len(orders[metric]) == 4, (metric, orders)
    gaps = [gap for gap in record["gaps"] if gap["metric"] in ("ref_psnr_db", "ref_ssim", "warp_gap_db")]
    assert len(gaps) == 7 and all(0 < gap["low"] <= gap["gap"] <= gap["high"] for gap in gaps), gaps
    assert {gap["verdict"] for gap in gaps} == {"yes"}

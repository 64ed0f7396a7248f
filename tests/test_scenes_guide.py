"""What the guide to whole scenes shows runs as it stands."""

import re
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
GUIDE = ROOT / "docs" / "scenes.md"


def test_its_code_runs_and_finds_the_truth(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("MPLBACKEND", "agg")
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), flags=re.DOTALL)
    assert len(blocks) == 10
    names: dict = {}
    for number, block in enumerate(blocks, 1):
        exec(compile(block, f"scenes.md, block {number}", "exec"), names)
    assert "magnitude_error" in capsys.readouterr().out
    table, truth = names["table"], names["truth"]
    for row in table:
        distance = np.hypot(truth["x"] - row["x"], truth["y"] - row["y"])
        nearest = truth[int(np.argmin(distance))]
        assert distance.min() < 0.5, row["name"]
        assert abs(row["magnitude"] - nearest["magnitude"]) < 5 * row["magnitude_error"] + 0.02, row["name"]


def test_the_files_it_names_exist():
    for path in re.findall(r"\]\(([\w./]+)\)", GUIDE.read_text()):
        assert (GUIDE.parent / path).exists(), path

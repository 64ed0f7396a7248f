"""What the guide to components shows runs as it stands."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GUIDE = ROOT / "docs" / "components.md"


def test_its_code_runs(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), flags=re.DOTALL)
    assert len(blocks) == 7
    names: dict = {}
    for number, block in enumerate(blocks, 1):
        exec(compile(block, f"components.md, block {number}", "exec"), names)
    assert "galaxy.bulge_flux" in capsys.readouterr().out
    assert names["fit"].params["galaxy.radius"] > 0


def test_the_files_it_names_exist():
    for path in re.findall(r"\]\(([\w./]+)\)", GUIDE.read_text()):
        assert (GUIDE.parent / path).exists(), path

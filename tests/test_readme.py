"""What the README shows runs as it stands."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def blocks():
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)


def test_the_examples_run_and_end_with_a_trusted_posterior(blocks, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("MPLBACKEND", "agg")
    names: dict = {}
    # fewer draws than shown: enough for the verdict
    first = blocks[0].replace("init=fit, draws=500", "init=fit, draws=250, progress=False")
    assert first != blocks[0]
    exec(compile(first, "README.md", "exec"), names)
    assert names["fit"].converged
    assert names["post"].attrs["verdict"] == "ok"
    assert abs(names["fit"].params["galaxy.n"] - 2.2) < 4 * names["fit"].std["galaxy.n"]
    for block in blocks[1:]:
        exec(compile(block, "README.md", "exec"), names)
    assert names["inference"].lm(names["scene"]).converged


def test_the_first_example_has_about_twenty_lines(blocks):
    assert len([line for line in blocks[0].splitlines() if line.strip()]) <= 22


def test_the_files_it_names_exist():
    text = (ROOT / "README.md").read_text()
    for path in re.findall(r"\]\(([\w./]+)\)", text):
        assert (ROOT / path).exists(), path

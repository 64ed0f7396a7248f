"""What the README shows runs as it stands."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def blocks():
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)


def test_the_examples_run_and_recover_the_truth(blocks, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("MPLBACKEND", "agg")
    names: dict = {}
    # half of the draws shown, for time: R-hat then scatters up to 1.02, and the verdict with it
    first = blocks[0].replace("init=fit, draws=500", "init=fit, draws=250, progress=False")
    assert first != blocks[0]
    exec(compile(first, "README.md", "exec"), names)
    assert names["fit"].converged
    sites = [site.name for site in names["inference"].Posterior(names["scene"]).sites]
    verdict = names["inference"].judge(names["post"], names=sites, target_acceptance=0.7)
    assert verdict.r_hat < 1.03
    assert verdict.ess_bulk > 400
    assert names["post"].attrs["verdict"] == verdict.text
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

"""What the guides show runs as it stands."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
GUIDES = sorted((ROOT / "docs").glob("*.md"))


def run(name: str, monkeypatch) -> dict:
    """What the code of a guide leaves behind."""
    monkeypatch.chdir(ROOT)
    names: dict = {}
    for number, block in enumerate(blocks_of(name), 1):
        exec(compile(block, f"{name}, block {number}", "exec"), names)
    return names


def blocks_of(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / name).read_text(), flags=re.DOTALL)


def test_the_code_on_components_runs(monkeypatch, capsys):
    assert len(blocks_of("components.md")) == 7
    names = run("components.md", monkeypatch)
    assert "galaxy.bulge_flux" in capsys.readouterr().out
    assert names["fit"].params["galaxy.radius"] > 0


@pytest.mark.slow
def test_the_code_on_several_images_runs(monkeypatch, capsys):
    assert len(blocks_of("many_images.md")) == 7
    names = run("many_images.md", monkeypatch)
    shown = capsys.readouterr().out
    assert "sky (flat_sky), galaxy (sersic) on g, r: 7 parameters to fit, 0 held" in shown
    assert "('r_y', 'r_x')" in shown
    fit = names["fit"]
    # the truth that the guide simulates: no offset, and a PSF of 3 pixels
    assert abs(float(fit.params["alignment.dx"][0])) < 5 * float(fit.std["alignment.dx"][0])
    assert abs(float(fit.params["psf_r.fwhm"]) - 3.0) < 5 * float(fit.std["psf_r.fwhm"])


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_the_files_it_names_exist(guide):
    for path in re.findall(r"\]\(([\w./]+)\)", guide.read_text()):
        assert (guide.parent / path).exists(), path

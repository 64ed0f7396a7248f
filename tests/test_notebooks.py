"""The notebooks of examples/ run, at their quick setting, and are stored with outputs that hold anywhere."""

from __future__ import annotations

import ast
import re
import shutil
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest

from bayesprof import inference

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
LARGEST = 1_000_000  # bytes of a notebook with its pictures
SWITCH = "quick = False"


def cells(path: Path) -> list[Any]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def run_cell(source: str, name: str, names: dict[str, Any]) -> None:
    """Run a cell as a notebook does: the last expression of it is displayed, and pyplot's figures are drawn."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, name, "exec"), names)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), name, "eval"), names)
        repr(value)
        for method in ("_repr_html_", "_repr_png_"):
            getattr(value, method, bool)()
    for number in plt.get_fignums():
        plt.figure(number).canvas.draw()
    plt.close("all")


@pytest.mark.slow  # README and the guides show the same in the default run
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_without_a_warning_and_recovers_the_truth(path, tmp_path, monkeypatch, capfd):
    shutil.copytree(EXAMPLES / "sample", tmp_path / "sample")
    monkeypatch.chdir(tmp_path)
    plt.switch_backend("agg")
    names: dict[str, Any] = {}
    sources = [cell.source for cell in cells(path)]
    assert sum(SWITCH in source for source in sources) == 1
    for number, source in enumerate(sources, 1):
        run_cell(source.replace(SWITCH, "quick = True"), f"{path.name}, code cell {number}", names)
    fits = {name: value for name, value in names.items() if isinstance(value, inference.Fit)}
    assert fits
    assert all(fit.converged for fit in fits.values()), {name: fit.message for name, fit in fits.items()}
    post, truths = names["post"], names["truths"]
    assert post.attrs["verdict"] == "ok"
    for site in set(truths) & set(post.posterior):
        draws = post.posterior[site].values
        off = np.abs(draws.mean(axis=(0, 1)) - truths[site]) / draws.std(axis=(0, 1))
        assert (off < 4.5).all(), site
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_stored_as_it_ran_with_pictures_and_nothing_of_a_machine(path):
    assert path.stat().st_size < LARGEST
    code = cells(path)
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"stream", "execute_result", "display_data"}
    assert {output.name for output in outputs if output.output_type == "stream"} == {"stdout"}
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= 3
    texts = [output.get("text", "") for output in outputs]
    texts += [
        data.get(kind, "") for data in (o.get("data", {}) for o in outputs) for kind in ("text/plain", "text/html")
    ]
    assert not re.search(r"/home/|/root|/tmp|/usr/|0x[0-9a-f]{6}|table[0-9]{6}|[0-9]+it/s", "\n".join(texts))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_files_it_links_to_exist(path):
    text = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown")
    for target in re.findall(r"\]\(([\w./]+)\)", text):
        assert (path.parent / target).exists(), target


def test_the_readme_lists_every_notebook():
    text = (EXAMPLES.parent / "README.md").read_text()
    assert [path.name for path in NOTEBOOKS] == re.findall(r"\(examples/(\d_\w+\.ipynb)\)", text)

"""Run the notebooks of this folder again, in place: what readers see in them is what they give.

A notebook is stored with its outputs, of which nothing depends on the machine or the day: no times, no paths, no
versions. Pictures are stored in 256 colours. One that raises, or writes to stderr, is left as it was:

    python examples/run_notebooks.py            # all of them
    python examples/run_notebooks.py 1_single_galaxy.ipynb
"""

from __future__ import annotations

import argparse
import base64
import re
import sys
from io import BytesIO
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

FOLDER = Path(__file__).parent
LONGEST = 1200  # seconds for a cell


def few_colours(png: str) -> str:
    """A picture in base64, in 256 colours: those that cover its range, so that no end of a colour bar is lost."""
    picture = Image.open(BytesIO(base64.b64decode(png))).convert("RGB")
    buffer = BytesIO()
    few = picture.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(buffer, format="png", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def joined(outputs: list) -> list:
    """Outputs of a cell, those that were printed one after the other as one."""
    kept: list = []
    for output in outputs:
        if kept and output.output_type == "stream" == kept[-1].output_type and output.name == kept[-1].name:
            kept[-1].text += output.text
        else:
            kept.append(output)
    return kept


def run(path: Path) -> None:
    """Execute the notebook at `path` and write it back.

    Raises RuntimeError where it writes to stderr, nbclient's CellExecutionError where it fails.
    """
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=LONGEST, record_timing=False, resources={"metadata": {"path": str(path.parent)}}
    ).execute()
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells, 1):
        cell.id, cell.metadata = f"cell-{number}", {}
        if cell.cell_type != "code":
            continue
        cell.outputs = joined(cell.outputs)
        for output in cell.outputs:
            if output.output_type == "stream" and output.name == "stderr":
                raise RuntimeError(f"{path.name}, cell {number} writes to stderr:\n{output.text}")
            data = output.get("data", {})
            if "image/png" in data:
                data["image/png"] = few_colours(data["image/png"])
            if "text/html" in data:  # astropy's tables have an address in memory for a name
                data["text/html"] = re.sub(r' id="table\d+"', "", data["text/html"])
    nbformat.write(notebook, path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=FOLDER.joinpath, help="names; all of the folder where left out")
    for notebook in parser.parse_args().notebooks or sorted(FOLDER.glob("*.ipynb")):
        print(notebook.name, flush=True, file=sys.stderr)
        run(notebook)

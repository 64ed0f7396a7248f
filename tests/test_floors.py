"""Who may import whom, what a wheel installs, and that the examples in docstrings run."""

from __future__ import annotations

import ast
import doctest
import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

CORE = (
    "checking",
    "whole_file",
    "threads",
    "taking",
    "placing",
    "window",
    "noise",
    "psf_field",
    "instrument",
    "reading",
    "psfex",
    "grid",
    "image",
    "pixel_map",
    "light",
    "members",
    "mapped",
    "joint_prior",
    "variation",
    "curves",
    "naming",
    "only_in",
    "lookup",
    "hankel",
    "radial",
    "transfer",
    "field_transfer",
    "periodic",
    "psf",
    "wings",
    "pixels",
    "lattices",
    "surfaces",
    "rendering",
    "splitting",
    "windows",
    "measurement",
    "images",
    "seeing",
    "correlation",
    "blank_sky",
    "sparse",
    "decorrelation",
    "correlated_normal",
    "contamination",
    "likelihood",
    "values",
    "group",
    "held",
    "recipe",
    "returned",
    "sites",
    "view",
    "assembling",
    "life_cycle",
    "scene",
    "stamps",
    "centring",
    "population",
    "estimate",
    "bright_windows",
    "row_slopes",
    "photometric",
    "background",
    "blends",
    "catalogue",
    "detections",
    "detecting",
)
"""Modules of the core, lowest first: each may import those before it."""


def modules() -> dict[str, Path]:
    """File of every module, by import name."""
    found = {}
    for folder, package in (
        ("bayesprof", "bayesprof"),
        ("models", "bayesprof.models"),
        ("inference", "bayesprof.inference"),
    ):
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            parts = path.relative_to(REPOSITORY / folder).with_suffix("").parts
            found[".".join([package, *(part for part in parts if part != "__init__")])] = path
    return found


MODULES = modules()


def imported(name: str) -> set[str]:
    """Import names of the modules of bayesprof that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import; write bayesprof. in full"
            # "from package import module" imports a module, "from module import name" one as well
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in MODULES else str(node.module))
    return {other for other in found if other.split(".")[0] == "bayesprof"}


def test_every_core_module_exists():
    assert {f"bayesprof.{name}" for name in CORE} <= set(MODULES)


@pytest.mark.parametrize("name", CORE)
def test_core_module_imports_lower_floors_only(name):
    allowed = {f"bayesprof.{other}" for other in CORE[: CORE.index(name)]}
    assert imported(f"bayesprof.{name}") <= allowed


@pytest.mark.parametrize("package", ["models", "inference"])
def test_models_and_inference_import_the_core_and_themselves_only(package):
    own = {name for name in MODULES if name.startswith(f"bayesprof.{package}")}
    allowed = own | {f"bayesprof.{name}" for name in CORE}
    assert own
    for name in sorted(own):
        assert imported(name) <= allowed, name


def test_package_itself_imports_only_what_stands_below_the_top():
    assert imported("bayesprof") <= {f"bayesprof.{name}" for name in CORE}


def test_likelihoods_stand_on_the_models():
    own = {name for name in MODULES if name.startswith("bayesprof.likelihoods")}
    allowed = own | {f"bayesprof.{name}" for name in CORE} | {"bayesprof.models.component"}
    assert len(own) > 1
    for name in sorted(own):
        assert imported(name) <= allowed, name


@pytest.mark.parametrize("library", ["matplotlib", "corner", "h5py", "tqdm"])
def test_core_and_models_do_not_need_what_is_for_results(library):
    lower = [name for name in MODULES if name.startswith("bayesprof.models") or name.removeprefix("bayesprof.") in CORE]
    for name in lower:
        roots = {
            alias.name.split(".")[0]
            for node in ast.walk(ast.parse(MODULES[name].read_text()))
            if isinstance(node, ast.Import)
            for alias in node.names
        } | {
            str(node.module).split(".")[0]
            for node in ast.walk(ast.parse(MODULES[name].read_text()))
            if isinstance(node, ast.ImportFrom)
        }
        assert library not in roots, name


def test_wheel_holds_every_package_under_bayesprof_and_no_other():
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]
    on_disk = {name if path.name == "__init__.py" else name.rpartition(".")[0] for name, path in MODULES.items()}
    assert set(settings["packages"]) == on_disk
    assert settings["package-dir"] == {
        "bayesprof": "bayesprof",
        "bayesprof.models": "models",
        "bayesprof.inference": "inference",
    }


def test_installed_package_adds_no_other_top_level_name(tmp_path):
    script = (
        "from importlib.util import find_spec; import bayesprof.models, bayesprof.inference; "
        "print([name for name in ('models', 'inference', 'tests', 'benchmarks') if find_spec(name)])"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_examples_in_docstrings_run(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


@pytest.mark.parametrize("name", MODULES)
def test_module_says_what_it_is_for(name):
    assert ast.get_docstring(ast.parse(MODULES[name].read_text()))

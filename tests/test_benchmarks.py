"""Benchmarks: what they import is still there, and what one of them found stays mended."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from bayesprof import inference

SCRIPTS = sorted((Path(__file__).resolve().parents[1] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_every_benchmark_can_be_loaded(script, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(script.parent), *sys.path])
    assert "__doc__" in runpy.run_path(str(script), run_name="loaded")


def test_a_maximum_at_a_round_bulge_is_not_left_for_a_lower_one(monkeypatch):
    """A galaxy of the benchmark of starts whose highest maximum has an edge where the bulge is round."""
    (script,) = (script for script in SCRIPTS if script.stem == "starts")
    monkeypatch.setattr(sys, "path", [str(script.parent), *sys.path])
    posterior, truth = runpy.run_path(str(script), run_name="loaded")["simulated"]("bulge_disk", 756644127)
    fit = inference.lm(posterior, starts="auto", seed=756644127)
    (lower,) = fit.others
    assert fit.converged
    assert "edge" in fit.message
    assert fit.hessian_kind == "gauss-newton"
    assert fit.log_density == pytest.approx(inference.lm(posterior, init=truth).log_density, abs=0.01)
    assert fit.log_density - lower.log_density == pytest.approx(5.98, abs=0.05)
    assert abs(fit.params["source.bulge_ellipticity"]).max() < 0.01

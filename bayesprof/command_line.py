"""The command ``bayesprof``: from files and settings to a folder of results.

Exit codes: 0, the verdict is ok (or the fit converged); 1, it isn't; 2, bad input, told in one line with what to
do; 3, results couldn't be written in full, or an error that isn't the user's, with its traceback; 130, interrupted.
"""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from bayesprof import inference, settings, storage
from bayesprof.building import image_of, scene_of
from bayesprof.options import InputError, parse
from bayesprof.report import lines_of, verdict_of
from bayesprof.scene import Scene

OK, FAILED_VERDICT, BAD_INPUT, UNFINISHED, INTERRUPTED = 0, 1, 2, 3, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv` (that of the process by default) and return its exit code."""
    try:
        with _short_warnings():
            tables, quiet = parse(argv)
            return _fit(tables, quiet)
    except InputError as error:
        _complain(str(error))
        return BAD_INPUT
    except OSError as error:  # those of the input are InputErrors: this is the output's
        _complain(str(error))
        return UNFINISHED
    except KeyboardInterrupt as error:
        _complain("; ".join(["interrupted", *getattr(error, "__notes__", [])]))
        return INTERRUPTED
    except Exception:  # the last door: whatever is left is a defect, and exit code 1 means something else
        traceback.print_exc()
        return UNFINISHED


def _fit(tables: dict[str, Any], quiet: bool) -> int:
    with _input(ValueError, TypeError, OSError):
        chosen = settings.checked(tables)
        if "out" not in tables:
            raise ValueError("expected a folder for the results, got none; give it as --out DIR")
    with _threads(chosen.fit["threads"]):
        with _input(ValueError, TypeError, OSError):
            overwrite = tables.get("overwrite", False)
            out = storage.check_directory(tables["out"], overwrite=overwrite)
            scene = scene_of(chosen, image_of(chosen))
            posterior = inference.Posterior(scene, seed=chosen.fit["seed"])
        with _input(ValueError):
            fit, result = _run(posterior, chosen, progress=not quiet)
        return _save(scene, chosen, fit, result, out, overwrite, quiet)


def _run(posterior: inference.Posterior, chosen: settings.Settings, progress: bool) -> tuple[inference.Fit, Any]:
    """The fit, and the result of the method, which is the fit itself for lm."""
    options = chosen.fit
    fit = inference.lm(posterior, seed=options["seed"], starts=options["starts"])
    if options["method"] == "lm":
        return fit, fit
    given = {key: options[key] for key in ("draws", "warmup", "chains") if key in options}
    method = getattr(inference, options["method"])
    return fit, method(posterior, init=fit, seed=options["seed"], progress=progress, **given)


def _save(
    scene: Scene,
    chosen: settings.Settings,
    fit: inference.Fit,
    result: Any,
    out: Path,
    overwrite: bool,
    quiet: bool,
) -> int:
    """Write the results and tell the verdict, which is told even where nothing can be written."""
    ok, verdict = verdict_of(result)
    text = settings.to_toml(chosen, out)
    files = {"settings.toml": lambda path: path.write_text(text, encoding="utf-8")}
    try:
        saved = storage.save_results(out, files | storage.products(scene, result, fit=fit), overwrite=overwrite)
    finally:
        if not quiet:
            print(*lines_of(storage.summary_table(result, units=scene.units)), f"verdict: {verdict}", sep="\n")
        elif not ok:
            _complain(f"verdict: {verdict}")
    for name, reason in saved.failed.items():
        _complain(f"{name} couldn't be written: {reason}")
    if saved.failed:
        _complain(f"the other results are in {saved.directory}")
        return UNFINISHED
    if not quiet:
        print(f"results: {saved.directory}")
    return OK if ok else FAILED_VERDICT


def _complain(message: str) -> None:
    print(f"bayesprof: {' '.join(message.split())}", file=sys.stderr)


@contextmanager
def _input(*kinds: type[Exception]) -> Iterator[None]:
    """Errors of these `kinds` inside are those of the input."""
    try:
        yield
    except kinds as error:
        raise InputError(str(error)) from error


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Torch runs with `count` threads inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _short_warnings() -> Iterator[None]:
    """Warnings take one line, without the place in the code."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *args, **kwargs: _complain(f"warning: {message}")
        yield

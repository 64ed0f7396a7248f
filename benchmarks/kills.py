"""Kill a checkpointed run at random moments, resume it, and compare its draws with those of a run left alone.

    python benchmarks/kills.py [--kills 50] [--method nuts] [--draws 500] [--between 0.05] [--out FILE.md]

The galaxy is simulated: 24x20 pixels, a Sersic profile under a Moffat PSF on a flat sky. Every run is a process of its
own, which imports, captures and fits anew. Two are left alone, one without a checkpoint and one with. Then, for each
kill, a run is started, killed with SIGKILL at a moment uniform over the time that the second of the two took (from the
call of the sampler to its return), and started again until it ends. All of its draws and statistics are compared with
those of the first run, byte by byte.

Saves are --between seconds apart at least, and may take half of the time, where they take a fiftieth of it otherwise:
so kills land in saves too. "Repeated" is the work between the last save and the kill; "lost" counts the runs that
didn't go on from the last save that had ended before the kill, or from the one that was going on.
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SEED, CHAINS, WARMUP = 1, 4, 100


# -- one run, in a process of its own


def run(folder: Path, arguments: argparse.Namespace) -> None:
    """Sample, and write every draw and statistic to draws.npz; what happens to the checkpoint is noted in log.txt."""
    import torch

    from bayesprof import inference
    from bayesprof.inference.checkpoint import Checkpoint

    torch.set_num_threads(1)
    posterior = inference.Posterior(simulated_scene(), seed=SEED)
    with open(folder / "log.txt", "a", buffering=1) as log:

        def note(*words: object) -> None:
            print(*words, time.monotonic(), file=log)

        load, save = Checkpoint.load, Checkpoint.save

        def noted_load(self: Checkpoint) -> Any:
            found = load(self)
            note("loaded", 0 if found is None else found[0]["step"])
            return found

        def noted_save(self: Checkpoint, state: Any, draws: Any) -> bool:
            note("saving", state["step"])
            done = save(self, state, draws)
            note("saved", state["step"])
            return done

        Checkpoint.load, Checkpoint.save = noted_load, noted_save  # type: ignore[method-assign]
        Checkpoint.seconds_between, Checkpoint.share = arguments.between, 0.5
        options = {} if arguments.alone else {"checkpoint": folder / "run.h5"}
        note("called", 0)
        method = getattr(inference, arguments.method)
        post = method(
            posterior, draws=arguments.draws, warmup=WARMUP, chains=CHAINS, seed=SEED, progress=False, **options
        )
        note("returned", 0)
    groups = {name: post[name] for name in ("posterior", "sample_stats")}
    arrays = {f"{name}/{site}": values for name, group in groups.items() for site, values in group.items()}
    np.savez(folder / "draws.npz", **arrays)


def simulated_scene() -> Any:
    """The scene of a simulated galaxy, its parameters free."""
    import bayesprof as bp
    from bayesprof import models

    y, x = np.mgrid[-5:6, -5:6]
    psf = (1 + (x**2 + y**2) / 3.4) ** -2.8
    noise = {"sigma": 0.3, "psf": psf / psf.sum()}
    galaxy = models.sersic(x=8.6, y=12.7, flux=600.0, r_eff=3.1, n=1.8, q=0.6, theta=0.7)
    truth = bp.Scene(bp.Image(np.zeros((24, 20)), **noise), sky=models.flat_sky(level=0.4), galaxy=galaxy).predict()
    data = truth.numpy() + np.random.default_rng(SEED).normal(0.0, noise["sigma"], truth.shape)
    return bp.Scene(bp.Image(data, **noise), sky=models.flat_sky(), galaxy=models.sersic())


# -- all of them


@dataclass(frozen=True)
class Event:
    """A line of the log: what happened, at which transition, and when (seconds of the machine's clock)."""

    what: str
    step: int
    when: float


@dataclass(frozen=True)
class Killed:
    """What one kill did. `during`: what the run was doing; `repeated`: seconds of work since its last save."""

    during: str
    resumed: bool
    identical: bool
    repeated: float


def start(folder: Path, arguments: argparse.Namespace, *, alone: bool = False) -> subprocess.Popen[bytes]:
    options = ["--method", arguments.method, "--draws", arguments.draws, "--between", arguments.between]
    command = [sys.executable, __file__, "--run", folder, *options, *(["--alone"] if alone else [])]
    return subprocess.Popen([str(part) for part in command])


def finished(folder: Path, arguments: argparse.Namespace, *, alone: bool = False) -> dict[str, np.ndarray]:
    """Run to the end; the draws and statistics."""
    if code := start(folder, arguments, alone=alone).wait():
        raise SystemExit(f"a run ended with {code}")
    with np.load(folder / "draws.npz") as arrays:
        return dict(arrays)


def events(folder: Path) -> list[Event]:
    """What the log of a folder tells; the line that a kill cut short is left out."""
    path = folder / "log.txt"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    words = [line.split() for line in lines if line.endswith("\n")]
    return [Event(what, int(step), float(when)) for what, step, when in words]


def kill(folder: Path, arguments: argparse.Namespace, delay: float) -> tuple[list[Event], float] | None:
    """Kill a run `delay` seconds after its call of the sampler. Its log and the time of its death; None where it had
    ended.
    """
    process = start(folder, arguments)
    try:
        while not (known := events(folder)):
            if process.poll() is not None:
                raise SystemExit(f"a run ended with {process.returncode} before it called the sampler")
            time.sleep(0.005)
        time.sleep(max(0.0, known[0].when + delay - time.monotonic()))
    finally:
        process.kill()
        process.wait()
    now = time.monotonic()
    known = events(folder)
    return None if known[-1].what == "returned" else (known, now)


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> bool:
    """Whether all draws and statistics agree to the last bit."""
    return found.keys() == expected.keys() and all(
        (found[name].dtype, found[name].shape) == (values.dtype, values.shape)
        and found[name].tobytes() == values.tobytes()
        for name, values in expected.items()
    )


def one(folder: Path, arguments: argparse.Namespace, delay: float, expected: dict[str, np.ndarray]) -> Killed | None:
    """One run, killed and resumed; None where it had ended before the kill."""
    killed = kill(folder, arguments, delay)
    if killed is None:
        return None
    before, died = killed
    draws = finished(folder, arguments)
    (loaded,) = (event.step for event in events(folder)[len(before) :] if event.what == "loaded")
    ended = [event for event in before if event.what == "saved"]
    last = ended[-1].step if ended else 0
    saving = before[-1].what == "saving"
    possible = {last, before[-1].step} if saving else {last}
    since = ended[-1].when if ended else before[0].when
    phases = {1: "starting", WARMUP: "warming up", WARMUP + arguments.draws: "drawing"}  # from the last save on
    during = "saving" if saving else next((phase for end, phase in phases.items() if last < end), "finishing")
    return Killed(during, loaded in possible, same(draws, expected), died - since)


def table(results: list[Killed], seconds_per_draw: float) -> list[str]:
    rows = [
        "| killed while | kills | resumed | lost | draws identical | repeated, median | most | most, in draws |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for during in ("starting", "warming up", "drawing", "saving", "finishing", "all"):
        of = [result for result in results if during in (result.during, "all")]
        if of:
            times = [result.repeated for result in of]
            lost, identical = sum(not result.resumed for result in of), sum(result.identical for result in of)
            rows.append(
                f"| {during} | {len(of)} | {len(of)} | {lost} | {identical} | {statistics.median(times):.2f} s "
                f"| {max(times):.2f} s | {CHAINS * max(times) / seconds_per_draw:.0f} |"
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--method", default="nuts", help="a sampler of bayesprof.inference")
    parser.add_argument("--draws", type=int, default=500, help="per chain")
    parser.add_argument("--between", type=float, default=0.05, metavar="SECONDS", help="least time between saves")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="write the table there too")
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        run(arguments.run, arguments)
        return
    choice = random.Random(arguments.seed)
    results: list[Killed] = []
    with tempfile.TemporaryDirectory() as name:
        folders = (Path(tempfile.mkdtemp(dir=name)) for _ in iter(int, 1))
        expected = finished(next(folders), arguments, alone=True)
        folder = next(folders)
        if not same(finished(folder, arguments), expected):
            raise SystemExit("a run with a checkpoint has other draws than one without")
        log = events(folder)
        seconds = log[-1].when - log[0].when
        saves = [event for event in log if event.what == "saved"]
        print(f"left alone: {seconds:.1f} s from call to return, {len(saves)} saves", flush=True)
        while len(results) < arguments.kills:
            delay = choice.uniform(0.0, seconds)
            result = one(next(folders), arguments, delay, expected)
            if result is None:
                print(f"had ended before {delay:.2f} s; once more", flush=True)
                continue
            results.append(result)
            print(f"{len(results)}: after {delay:.2f} s, {result}", flush=True)
    sampling = saves[-1].when - next(event.when for event in log if event.what == "saved")
    rows = table(results, sampling / (saves[-1].step - saves[0].step))
    print("\n" + "\n".join(rows))
    if arguments.out:
        arguments.out.write_text("\n".join(rows) + "\n")
    if not all(result.resumed and result.identical for result in results):
        raise SystemExit(1)


if __name__ == "__main__":
    main()

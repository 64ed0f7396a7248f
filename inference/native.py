"""Captured graphs compiled: their loops by the C++ compiler of the machine, called without Python's lock.

It takes a second or a few where torch.compile takes a minute, and the result is kept on disk. What it computes is the
captured graph's value, to rounding.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_unflatten

from bayesprof.inference.loop_code import Code
from bayesprof.inference.loop_parts import Buffer, External, UnsupportedError, View
from bayesprof.inference.loops import Plan

_FLAGS = (
    "-std=c++17", "-O3", "-march=native", "-fPIC", "-shared", "-fopenmp-simd", "-ffp-contract=fast", "-fno-math-errno",
    "-fno-trapping-math",
    # GCC 12 turns pointers into offsets from a null pointer, and then takes what is stored there for lost
    "-fno-ivopts", "-w",
)  # fmt: skip


class CompilerError(RuntimeError):
    """This machine can't compile, or not what it was given."""


class Compiled:
    """A graph whose loops have been compiled."""

    def __init__(self, graph: fx.GraphModule) -> None:
        try:
            self.plan = Plan(graph)
        except UnsupportedError as error:
            raise CompilerError(f"the graph can't be written as loops: {error}") from error
        self.code = Code(self.plan)
        library = _library(self.code.text)
        self.stages = {number: getattr(library, f"stage_{number}") for number in self.code.stages}
        self.externals: dict[int, list[External]] = {}
        for external in self.plan.externals:
            self.externals.setdefault(external.stage, []).append(external)

    def bind(self, constants: Sequence[Tensor]) -> Callable[[Tensor], Any]:
        """The function of the first argument, the others being `constants`; for any number of threads."""
        held = [constant.detach().resolve_conj().resolve_neg().contiguous() for constant in constants]
        local = threading.local()

        def run(z: Tensor) -> Any:
            if not hasattr(local, "memory"):
                local.memory = _Memory(self, held)
            return local.memory(z.detach().contiguous())

        return run


class _Memory:
    """The arrays of one thread's calls."""

    def __init__(self, compiled: Compiled, constants: list[Tensor]) -> None:
        self.plan, self.code = compiled.plan, compiled.code
        self.block = torch.empty(max(self.code.bytes, 1) + 64, dtype=torch.uint8)
        start = -self.block.data_ptr() % 64
        self.block = self.block[start:]
        self.constants = constants
        count = 1 + len(self.plan.arguments) + len(self.plan.externals)
        self.pointers = (ctypes.c_void_p * count)()
        self.pointers[0] = self.block.data_ptr()
        for place, constant in enumerate(constants):
            self.pointers[2 + place] = constant.data_ptr()
        self.results: dict[int, Any] = {}  # of the library's operations, by their id
        self.first: Tensor | None = None
        last = max([*compiled.stages, *compiled.externals], default=-1)
        self.steps = [
            (compiled.stages.get(stage), [self._call(external) for external in compiled.externals.get(stage, [])])
            for stage in range(last + 1)
        ]
        self.outputs = [self._tensor(view) for view in self.plan.outputs]

    def __call__(self, z: Tensor) -> Any:
        self.first = z
        self.pointers[1] = z.data_ptr()
        for stage, calls in self.steps:
            if stage is not None:
                stage(self.pointers)
            for call in calls:
                call()
        return tree_unflatten([output().clone() for output in self.outputs], self.plan.outputs_layout)

    def _tensor(self, view: View) -> Callable[[], Any]:
        """The tensor that a view is, when its array is ready."""
        buffer, layout = self.plan.buffer(view.source), view.tensor
        size, stride, offset = layout.shape, layout.stride(), layout.storage_offset()
        if isinstance(buffer, Buffer) and buffer.argument != 0:
            if buffer.argument is None:
                start = self.code.offsets[id(buffer)]
                whole = self.block[start : start + buffer.bytes].view(buffer.dtype)
            else:
                whole = self.constants[buffer.argument - 1].view(-1)
            fixed = _strided(whole, layout)
            return lambda: fixed
        if isinstance(buffer, External):
            key = id(buffer)

            def found() -> Any:
                result = self.results[key]
                if not isinstance(result, Tensor) or (
                    result.shape == size and result.stride() == stride and not offset
                ):
                    return result
                return _strided(result, layout)

            return found
        return lambda: _strided(self.first, layout)

    def _call(self, external: External) -> Callable[[], None]:
        place = 1 + len(self.plan.arguments) + self.plan.externals.index(external)
        target, key, pointers, results = external.target, id(external), self.pointers, self.results
        size, stride = external.result.shape, external.result.stride()
        args, kwargs = self._arguments(external.args), self._arguments(external.kwargs)

        def call() -> None:
            result = target(*args(), **kwargs())
            if isinstance(result, Tensor):
                result = result.resolve_conj()
                if result.stride() != stride or result.storage_offset():
                    result = torch.empty_strided(size, stride, dtype=result.dtype).copy_(result)
                pointers[place] = result.data_ptr()
            results[key] = result

        return call

    def _arguments(self, value: Any) -> Callable[[], Any]:
        """What makes an argument, or a collection of them, when it's needed."""
        if isinstance(value, View):
            return self._tensor(value)
        if isinstance(value, dict):
            named = {name: self._arguments(part) for name, part in value.items()}
            return lambda: {name: part() for name, part in named.items()}
        if isinstance(value, list | tuple) and any(isinstance(part, View | list | tuple) for part in value):
            parts = [self._arguments(part) for part in value]
            return lambda: [part() for part in parts]
        return lambda: value


def _strided(whole: Any, layout: Tensor) -> Tensor:
    if layout.dtype != whole.dtype:  # parts of complex numbers
        whole = torch.view_as_real(whole)
    start = whole.storage_offset() + layout.storage_offset()
    found: Tensor = torch.as_strided(whole, layout.shape, layout.stride(), start)
    return found


def _library(text: str) -> ctypes.CDLL:
    """The compiled `text`, from the disk where it was compiled before.

    Raises CompilerError where that can't be.
    """
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++") or shutil.which("c++")
    if not compiler or not shutil.which(compiler):
        tried = compiler or "g++, clang++ or c++"
        raise CompilerError(f"no C++ compiler found: {tried}; install one, or name one in the environment variable CXX")
    error = ""
    for options in (("-DVECTOR_MATH",), ()):
        link = ("-lmvec", "-lm") if options else ("-lm",)
        command = [compiler, *_FLAGS, *options]
        known = hashlib.sha256("\n".join([text, _processor(), *command, _version(compiler)]).encode()).hexdigest()[:32]
        for folder in _folders():
            path = folder / f"{known}.so"
            try:
                if not path.exists():
                    folder.mkdir(parents=True, exist_ok=True)
                    error = _build(command, link, text, path)
                    if error:
                        break
                return ctypes.CDLL(str(path))
            except OSError as failure:
                error = str(failure)
    raise CompilerError(f"{compiler}: {error.strip()}")


def _build(command: list[str], link: tuple[str, ...], text: str, path: Path) -> str:
    """Compile `text` to `path`, which appears whole or not at all; what went wrong, or nothing."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        source, made = Path(folder) / "loops.cpp", Path(folder) / "loops.so"
        source.write_text(text)
        done = subprocess.run(
            [*command, str(source), "-o", str(made), *link], capture_output=True, text=True, check=False
        )
        if done.returncode:
            return done.stderr or f"exit status {done.returncode}"
        os.replace(made, path)
    return ""


def _folders() -> list[Path]:
    """Where compiled code is kept: the user's cache, or else a folder of this process."""
    own = os.environ.get("BAYESPROF_CACHE")
    cache = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bayesprof"
    return [cache, Path(_temporary().name)]


@lru_cache(maxsize=1)
def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="bayesprof-")


@lru_cache
def _version(compiler: str) -> str:
    return subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout


@lru_cache(maxsize=1)
def _processor() -> str:
    """What the code is compiled for."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))

"""Checkpoints: the state and the draws of an unfinished run in one HDF5 file that is always whole.

A save builds the file in memory, writes it beside the old one, and renames it over that: whatever happens meanwhile
(kill -9, a full disk, a power cut), the old file or the new one is there, complete. HDF5 files that are appended to in
place have no such moment, and HDF5 itself doesn't recover from a full disk; so it never sees the disk here. Rewriting
the whole file costs more as draws accumulate, and saves become rarer in the same measure (:meth:`Checkpoint.due`).

Any byte that changes is noticed (:mod:`bayesprof.inference.sealed_file`). HDF5 readers open the file as it is:
``h5py.File(path)["draws"]`` holds the draws so far.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import time
import warnings
import weakref
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from bayesprof.inference.sealed_file import Seal, opened, read_tree, sealed, write_tree
from bayesprof.whole_file import replacing

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_SEAL = Seal(
    "checkpoint",
    "2",
    "resume with the version of bayesprof that wrote it, or choose another path",
    "a bayesprof checkpoint or no file",
    "which is left as it is; choose another path",
)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class Checkpoint:
    """The file `path`, held by this process alone, with the last saved state and draws of one run.

    Parameters
    ----------
    path : str or path
        The file, in a folder that exists. While it is held, ``.<name>.lock`` stands beside it.
    identity : mapping from str to what JSON can hold
        What makes the run the one that it is: method, seed, chains, names of sites, a fingerprint of the data.

    Raises
    ------
    ValueError
        For an existing file that isn't a checkpoint, is damaged, or is that of a run with another identity. The file
        is left as it is.
    TypeError
        For an identity that JSON can't hold.
    BlockingIOError
        Where another run holds the file.
    OSError
        Where the folder is missing or can't be written.

    Warns
    -----
    UserWarning
        Where another version of bayesprof or torch saved the file: its draws needn't go on as they would have. And on
        file systems without locks.

    Notes
    -----
    The lock goes with :meth:`close`, with the object, or with the process, however that ends; processes forked from
    this one share it. A file kept after the run lets the same call return its draws, or add to them.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = f"{folder.name}/run.h5"
    >>> with Checkpoint(path, {"method": "walk", "seed": 1}) as checkpoint:
    ...     checkpoint.load() is None, checkpoint.save({"step": 3}, {"z": np.zeros((2, 3, 5))})
    (True, True)
    >>> with Checkpoint(path, {"method": "walk", "seed": 1}) as checkpoint:
    ...     state, draws = checkpoint.load()
    >>> state, draws["z"].shape
    ({'step': 3}, (2, 3, 5))
    >>> Checkpoint(path, {"method": "walk", "seed": 2})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    ValueError: ...run.h5' is the checkpoint of another run: expected seed = 2, found 1; repeat the call that ...
    >>> folder.cleanup()
    """

    seconds_between = 5.0
    """Least number of seconds from one save to the next."""
    share = 0.02
    """Share of the run's time that saves may take."""

    def __init__(self, path: str | os.PathLike[str], identity: Mapping[str, Any]) -> None:
        self.path = Path(path).expanduser().resolve()
        self.identity = {name: _json(value, f"identity {name!r}") for name, value in identity.items()}
        self._partial = self.path.with_name(f".{self.path.name}.partial")
        self._failing = False
        self._release = weakref.finalize(self, _unlock, *_locked(self.path))
        try:
            self._partial.unlink(missing_ok=True)  # of a run that was killed while it saved
            if self.path.exists():
                with h5py.File(opened(self.path, _SEAL)) as file:
                    _check_identity(self.path, self.identity, json.loads(file["identity"][()]))
                    _compare_versions(self.path, json.loads(file.attrs["versions"]))
        except BaseException:
            self.close()
            raise
        self._cost = 0.0
        self._last = time.monotonic()
        self._asked: float | None = None

    def load(self) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
        """State and draws as they were last saved, or None where nothing was."""
        if not self.path.exists():
            return None
        with h5py.File(opened(self.path, _SEAL)) as file:
            return read_tree(file["state"]), read_tree(file["draws"])

    def due(self) -> bool:
        """Whether it is time for a save.

        At least `seconds_between` after the last one, and so long after it that, if the next one takes as long, saves
        have a `share` of the time: 100 MB of draws, saved in half a second, are saved every 25 s. What is done between
        the answer and the save, to collect the draws, counts as its time.
        """
        now = time.monotonic()
        due = now - self._last >= max(self.seconds_between, self._cost / self.share)
        self._asked = now if due else None
        return due

    def save(self, state: Mapping[str, Any], draws: Mapping[str, np.ndarray]) -> bool:
        """Put `state` and `draws` in the place of what the file held; whether that was possible.

        Where the disk is full, or the file can't be written for another reason, it stays as it was, and the first such
        failure in a row is a warning. For a moment, this takes as much memory again as the draws.

        Parameters
        ----------
        state : mapping from str
            Numbers, strings, bools, None, NumPy arrays and scalars of numbers or bools, and mappings of them; each is
            loaded as it was, to the last bit, with its type, and in C or Fortran order (in which products with it
            round differently).
        draws : mapping from str to arrays of shape (chains, draws, ...)
            All with the same number of draws.

        Raises
        ------
        TypeError, ValueError
            For anything else, by its name.
        """
        if not self._release.alive:
            raise ValueError(f"'{self.path}': expected an open checkpoint, got one that was closed; open it again")
        start, self._asked = self._asked or time.monotonic(), None
        try:
            self._replace(_file_image(self.identity, state, draws))
        except (OSError, MemoryError) as error:
            if not self._failing:
                warnings.warn(
                    f"the checkpoint '{self.path}' can't be saved now ({_reason(error)}); the run goes on, what was "
                    "saved before stays, and saving is tried again later; make room",
                    stacklevel=2,
                )
            self._failing = True
        else:
            self._failing = False
        finally:
            self._last = time.monotonic()
            self._cost = self._last - start
        return not self._failing

    def close(self) -> None:
        """Let go of the file, for other runs to take."""
        self._release()

    def remove(self) -> None:
        """Delete the file, and let go of it."""
        if not self._release.alive:
            raise ValueError(f"'{self.path}': expected an open checkpoint, got one that was closed; delete the file")
        self.path.unlink(missing_ok=True)
        self.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _replace(self, content: memoryview) -> None:
        with replacing(self.path, self._partial) as partial, open(partial, "xb") as file:
            file.write(content)


# -- one process at a time


def _locked(path: Path) -> tuple[int, Path, int]:
    """Descriptor and path of the lock file beside `path`, and the process that took it."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"'{path}': expected the folder '{path.parent}', there is none; make it first")
    if path.is_dir():
        raise IsADirectoryError(f"'{path}': expected a file, or nothing, got a folder; name a file in it")
    lock = path.with_name(f".{path.name}.lock")
    try:
        while True:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                _flock(descriptor, path)
                if _is_still(lock, descriptor):  # and not deleted by its last holder between the two calls
                    os.ftruncate(descriptor, 0)
                    os.write(descriptor, f"process {os.getpid()} on {platform.node()}\n".encode())
                    return descriptor, lock, os.getpid()
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)
    except BlockingIOError:
        raise
    except OSError as error:
        raise OSError(f"can't write beside '{path}' ({_reason(error)}); choose another folder") from error


def _flock(descriptor: int, path: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
        raise BlockingIOError(
            f"'{path}' is in use by {holder}; wait for it or end it (and what it started), or choose another path"
        ) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        warnings.warn(f"'{path}' is on a file system without locks; see to it that no second run uses it", stacklevel=4)


def _is_still(lock: Path, descriptor: int) -> bool:
    """Whether the open file is the one that has the name."""
    try:
        return os.path.samestat(os.stat(lock), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _unlock(descriptor: int, lock: Path, process: int) -> None:
    if os.getpid() == process:  # not the end of a process forked from it
        with suppress(OSError):
            lock.unlink()  # while it is still held, or it might be another's already
    os.close(descriptor)


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


# -- what is in the file


def _file_image(identity: Mapping[str, Any], state: Mapping[str, Any], draws: Mapping[str, np.ndarray]) -> memoryview:
    _check_draws(draws)
    # the buffer grows by eighths, the state takes little: short of memory is found here, as HDF5 doesn't survive it
    np.empty(sum(values.nbytes for values in draws.values()) * 9 // 8 + 2**20, np.uint8)

    def fill(file: h5py.File) -> None:
        file["identity"] = np.bytes_(json.dumps(identity))  # attributes end at 64 kB
        file.attrs["versions"] = json.dumps(_versions())
        file.attrs["saved_at"] = datetime.now(UTC).isoformat(timespec="seconds")
        write_tree(file, "state", state, "state")
        write_tree(file, "draws", draws, "draws")

    return sealed(_SEAL, fill)


def _check_identity(path: Path, expected: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    def shown(values: Mapping[str, Any], name: str) -> str:
        text = json.dumps(values[name]) if name in values else "nothing"
        return text if len(text) <= 200 else f"{text[:200]}..."

    names = [*expected, *(name for name in found if name not in expected)]
    differences = [
        f"expected {name} = {shown(expected, name)}, found {shown(found, name)}"
        for name in names
        # as text: NaN equals itself there, and true isn't 1
        if json.dumps(expected.get(name), sort_keys=True) != json.dumps(found.get(name), sort_keys=True)
        or (name in expected) != (name in found)
    ]
    if differences:
        raise ValueError(
            f"'{path}' is the checkpoint of another run: {'; '.join(differences)}; repeat the call that it belongs to, "
            "or choose another path"
        )


def _versions() -> dict[str, str]:
    return {library: version(library) for library in ("bayesprof", "torch")}


def _compare_versions(path: Path, found: Mapping[str, str]) -> None:
    changes = [f"{name} {found[name]}, now {here}" for name, here in _versions().items() if found.get(name) != here]
    if changes:
        warnings.warn(
            f"'{path}' was saved by {' and '.join(changes)}: the draws go on, but needn't be those of an uninterrupted "
            "run",
            stacklevel=3,
        )


def _json(value: Any, where: str) -> Any:
    """`value` as JSON gives it back: tuples as lists."""
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{where}: expected what JSON can hold, got {type(value).__name__} ({error}); pass numbers, text or lists"
        ) from error


def _check_draws(draws: Mapping[str, np.ndarray]) -> None:
    for name, values in draws.items():
        if type(values) is not np.ndarray:
            raise TypeError(
                f"draws[{name!r}]: expected a NumPy array, got {type(values).__name__}; pass its values as one"
            )
    shapes = {name: values.shape for name, values in draws.items()}
    if any(len(shape) < 2 for shape in shapes.values()) or len({shape[1] for shape in shapes.values()}) > 1:
        raise ValueError(
            f"expected draws of shape (chains, draws, ...) with the same number of draws, got {shapes}; cut them to "
            "the same transition"
        )

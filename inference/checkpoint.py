"""Checkpoints: the state and the draws of an unfinished run in one HDF5 file that is always whole.

A save builds the file in memory, writes it beside the old one, and renames it over that: whatever happens meanwhile
(kill -9, a full disk, a power cut), the old file or the new one is there, complete. HDF5 files that are appended to in
place have no such moment, and HDF5 itself doesn't recover from a full disk; so it never sees the disk here. Rewriting
the whole file costs more as draws accumulate, and saves become rarer in the same measure (:meth:`Checkpoint.due`).

512 bytes of text stand before the HDF5 data, with their length and SHA-256: any byte that changes is noticed. h5py
and other HDF5 readers skip them: ``h5py.File(path)["draws"]`` holds the draws so far.
"""

from __future__ import annotations

import errno
import hashlib
import io
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
from urllib.parse import quote, unquote

import h5py
import numpy as np

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_OURS = b"bayesprof checkpoint, format "
_FORMAT = b"1"
_HEADER = 512  # bytes before the HDF5 data, which HDF5 readers look for at 0, 512, 1024, ...
_NUMBERS = "biufc"  # kinds of dtype that HDF5 gives back bit for bit
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
                with h5py.File(_checked(self.path)) as file:
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
        with h5py.File(_checked(self.path)) as file:
            return _read(file["state"]), _read(file["draws"])

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
        try:
            self._partial.unlink(missing_ok=True)
            with open(self._partial, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(self._partial, self.path)
        finally:
            with suppress(OSError):
                self._partial.unlink(missing_ok=True)
        with suppress(OSError):  # the file is in place; not every system can flush a folder
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


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
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", userblock_size=_HEADER, track_order=True) as file:
        file["identity"] = np.bytes_(json.dumps(identity))  # attributes end at 64 kB
        file.attrs["versions"] = json.dumps(_versions())
        file.attrs["saved_at"] = datetime.now(UTC).isoformat(timespec="seconds")
        _write(file, "state", state, "state")
        _write(file, "draws", draws, "draws")
    content = buffer.getbuffer()
    content[:_HEADER] = _header(content[_HEADER:])
    return content


def _header(data: memoryview) -> bytes:
    text = f"\n{len(data)} bytes of HDF5 follow this block of {_HEADER}\nsha256 {hashlib.sha256(data).hexdigest()}\n"
    return (_OURS + _FORMAT + text.encode()).ljust(_HEADER, b"\n")


def _checked(path: Path) -> io.BytesIO:
    """The file's content, if it is a checkpoint and every byte is as it was written."""
    content = path.read_bytes()
    if not content.startswith(_OURS):
        raise ValueError(
            f"'{path}': expected a bayesprof checkpoint or no file, got {_described(content)}, which is left as it is; "
            "choose another path"
        )
    form = content[len(_OURS) : _HEADER].partition(b"\n")[0]
    if form != _FORMAT:
        raise ValueError(
            f"'{path}': expected a checkpoint of format {_FORMAT.decode()}, got format {form[:20]!r}; resume with the "
            "version of bayesprof that wrote it, or choose another path"
        )
    if content[:_HEADER] != _header(memoryview(content)[_HEADER:]):
        raise ValueError(
            f"'{path}' is damaged: its {len(content)} bytes aren't those that were written, and nothing in it can be "
            "trusted; restore it from a copy, or delete it and start again"
        )
    return io.BytesIO(content)


def _described(content: bytes) -> str:
    if not content:
        return "an empty file"
    return "another HDF5 file" if content.startswith(b"\x89HDF") else f"a file that begins with {content[:12]!r}"


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


def _write(parent: h5py.Group, name: str, value: Any, where: str) -> None:
    """Store `value` under `name`: mappings as groups, arrays as datasets, everything else as its JSON text."""
    if isinstance(value, Mapping):
        group = parent.create_group(name, track_order=True)
        for key, entry in value.items():
            if not isinstance(key, str) or not key:
                raise TypeError(f"{where}: expected keys that are non-empty strings, got {key!r}")
            _write(group, _link(key), entry, f"{where}[{key!r}]")
    elif (type(value) is np.ndarray or isinstance(value, np.generic)) and value.dtype.kind in _NUMBERS:
        dataset = parent.create_dataset(name, data=value)
        dataset.attrs["kind"] = "array" if type(value) is np.ndarray else "scalar"
        dataset.attrs["order"] = "F" if value.flags.fnc else "C"
    elif value is None or type(value) in (bool, int, float, str):
        dataset = parent.create_dataset(name, data=np.bytes_(json.dumps(value)))
        dataset.attrs["kind"] = "json"
    else:
        described = type(value).__name__ + (f" of {value.dtype}" if hasattr(value, "dtype") else "")
        raise TypeError(
            f"{where}: expected a number, text, None, a NumPy array of numbers or a mapping of them, got {described}; "
            "pass its values as one of these"
        )


def _read(item: h5py.Group | h5py.Dataset) -> Any:
    if isinstance(item, h5py.Group):
        return {unquote(name): _read(entry) for name, entry in item.items()}
    kind = item.attrs["kind"]
    if kind == "json":
        return json.loads(item[()])
    values = np.asarray(item[...], order=item.attrs["order"])
    return values if kind == "array" else values[()]


def _link(key: str) -> str:
    """`key` as the name of an HDF5 link, which has no "/" and isn't "."."""
    return "%2E" if key == "." else quote(key, safe=" !\"#$&'()*+,:;<=>?@[]^`{|}")

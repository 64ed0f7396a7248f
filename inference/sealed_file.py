"""HDF5 files of which any byte that changes is noticed, and the trees of values in them.

512 bytes of text stand before the HDF5 data, with their length and SHA-256. h5py and other HDF5 readers skip them. The
file is built in memory: HDF5 itself doesn't recover from a full disk, so it never sees the disk here.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import h5py
import numpy as np

_HEADER = 512  # bytes before the HDF5 data, which HDF5 readers look for at 0, 512, 1024, ...
_NUMBERS = "biufc"  # kinds of dtype that HDF5 gives back bit for bit


class Seal(NamedTuple):
    """What a file begins with: what it is, and the number of its format. `remedy`: what to do with one of another
    format; `expected`, and `otherwise`, what to do: of a file that is something else.
    """

    what: str
    form: str
    remedy: str
    expected: str
    otherwise: str

    @property
    def mark(self) -> bytes:
        return f"bayesprof {self.what}, format ".encode()


def sealed(seal: Seal, fill: Callable[[h5py.File], None]) -> memoryview:
    """The bytes of an HDF5 file that `fill` fills, under a seal."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", userblock_size=_HEADER, track_order=True) as file:
        fill(file)
    content = buffer.getbuffer()
    content[:_HEADER] = _header(seal, content[_HEADER:])
    return content


def _header(seal: Seal, data: memoryview) -> bytes:
    text = f"\n{len(data)} bytes of HDF5 follow this block of {_HEADER}\nsha256 {hashlib.sha256(data).hexdigest()}\n"
    return (seal.mark + seal.form.encode() + text.encode()).ljust(_HEADER, b"\n")


def opened(path: Path, seal: Seal) -> io.BytesIO:
    """The file's content, if it has this seal and every byte is as it was written.

    Raises ValueError for any other file.
    """
    content = path.read_bytes()
    if not content.startswith(seal.mark):
        raise ValueError(f"'{path}': expected {seal.expected}, got {_described(content)}, {seal.otherwise}")
    form = content[len(seal.mark) : _HEADER].partition(b"\n")[0]
    if form != seal.form.encode():
        raise ValueError(
            f"'{path}': expected a {seal.what} of format {seal.form}, got format {form[:20]!r}; {seal.remedy}"
        )
    if content[:_HEADER] != _header(seal, memoryview(content)[_HEADER:]):
        raise ValueError(
            f"'{path}' is damaged: its {len(content)} bytes aren't those that were written, and nothing in it can be "
            "trusted; restore it from a copy, or delete it and start again"
        )
    return io.BytesIO(content)


def _described(content: bytes) -> str:
    if not content:
        return "an empty file"
    return "another HDF5 file" if content.startswith(b"\x89HDF") else f"a file that begins with {content[:12]!r}"


def write_tree(parent: h5py.Group, name: str, value: Any, where: str) -> None:
    """Store `value` under `name`: mappings as groups, arrays as datasets, everything else as its JSON text."""
    if isinstance(value, Mapping):
        group = parent.create_group(name, track_order=True)
        for key, entry in value.items():
            if not isinstance(key, str) or not key:
                raise TypeError(f"{where}: expected keys that are non-empty strings, got {key!r}")
            write_tree(group, _link(key), entry, f"{where}[{key!r}]")
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


def read_tree(item: h5py.Group | h5py.Dataset) -> Any:
    if isinstance(item, h5py.Group):
        return {unquote(name): read_tree(entry) for name, entry in item.items()}
    kind = item.attrs["kind"]
    if kind == "json":
        return json.loads(item[()])
    values = np.asarray(item[...], order=item.attrs["order"])
    return values if kind == "array" else values[()]


def _link(key: str) -> str:
    """`key` as the name of an HDF5 link, which has no "/" and isn't "."."""
    return "%2E" if key == "." else quote(key, safe=" !\"#$&'()*+,:;<=>?@[]^`{|}")

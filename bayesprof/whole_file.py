"""Files that are whole at any moment: the old one or the new one, whatever happens while it is written."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(path: Path, partial: Path | None = None) -> Iterator[Path]:
    """A path beside `path` to write to, which takes its place when all went well, and is deleted where not.

    A kill, a full disk or a power cut leaves the old file or the new one, complete. `partial` : that path, of the same
    ending by default.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "table.txt"
    ...     with replacing(path) as partial:
    ...         _ = partial.write_text("complete")
    ...     [file.name for file in Path(folder).iterdir()], path.read_text()
    (['table.txt'], 'complete')
    """
    if partial is None:
        partial = path.with_name(f".partial-{secrets.token_hex(3)}-{path.name}")
    try:
        partial.unlink(missing_ok=True)
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
    with suppress(OSError):  # the file is in place; not every system can flush a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

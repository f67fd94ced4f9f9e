"""Files that are either whole or absent, hashes, and the cache folder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from enhance.errors import EnhanceError


@contextlib.contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that takes its name on success.

    The temporary name keeps the suffix (libraries choose a format by it). On any
    exception, Ctrl-C included, the temporary file is removed and an older file
    at ``path`` is left as it was.

    Raises
    ------
    EnhanceError
        If the folder cannot be made or written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise EnhanceError(f"{path}: is a folder, a file was to be written there")
        temporary.touch()
        mode = temporary.stat().st_mode
    except OSError as error:
        raise EnhanceError(
            f"{path}: cannot be written ({error.strerror or error}); choose another place"
        ) from error
    try:
        yield temporary
        temporary.chmod(mode)  # safetensors makes files that only their owner may read
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise EnhanceError(
                f"{path}: cannot be written ({error.strerror or error}); choose another place"
            ) from error
        raise


def write_json(path: Path | str, value: Any) -> None:
    """Write indented JSON, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")


def write_jsonl(path: Path | str, rows: Iterator[Any] | list[Any]) -> None:
    """Write one JSON value a line, atomically."""
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_jsonl(path: Path | str) -> list[Any]:
    """Read one JSON value a line; an `EnhanceError` names the line that is none."""
    rows = []
    try:
        text = Path(path).read_text("utf-8-sig")  # some editors put a mark before the first line
    except (OSError, UnicodeDecodeError) as error:
        raise EnhanceError(f"{path}: cannot be read ({error})") from error
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise EnhanceError(f"{path}, line {number}: not JSON ({error})") from error
    return rows


def sha256(path: Path | str) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise EnhanceError(f"{path}: cannot be read ({error.strerror or error})") from error
    return digest.hexdigest()


def cache_folder(*parts: str) -> Path:
    """Folder for things that can be made again: ``$XDG_CACHE_HOME/enhance`` or its default."""
    root = os.environ.get("XDG_CACHE_HOME")
    base = Path(root) if root else Path.home() / ".cache"
    return base.joinpath("enhance", *parts)


@contextlib.contextmanager
def atomic_folder(path: Path | str, *, force: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside ``path`` that takes its name on success.

    On any exception, Ctrl-C included, the temporary folder is removed and an older folder at
    ``path`` is left as it was.

    Raises
    ------
    EnhanceError
        If something stands at ``path`` at the start or the end (an empty folder does not count)
        and ``force`` is not set, or the folder cannot be made.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    old = path.with_name(f".{path.name}.{secrets.token_hex(4)}.old")
    try:
        if path.exists() and not (path.is_dir() and not any(path.iterdir())):
            if not force:
                raise EnhanceError(f"{path}: is there already; --force replaces it")
            if not path.is_dir():
                raise EnhanceError(f"{path}: is a file, a folder was to be made there")
        temporary.mkdir(parents=True)
    except OSError as error:
        raise EnhanceError(
            f"{path}: cannot be made ({error.strerror or error}); choose another place"
        ) from error
    try:
        yield temporary
        if force and path.exists():
            path.replace(old)
        temporary.replace(path)  # refused by the system where another writer was first
        shutil.rmtree(old, ignore_errors=True)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if old.exists() and not path.exists():
            old.replace(path)
        if isinstance(error, OSError):
            if error.errno in _OCCUPIED and not force and path.exists():
                raise EnhanceError(
                    f"{path}: was made by another process meanwhile; --force replaces it"
                ) from error
            raise EnhanceError(
                f"{path}: cannot be made ({error.strerror or error}); choose another place"
            ) from error
        raise


_OCCUPIED = frozenset({errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR})
"""What the system answers where a folder would replace a full folder or a file."""


def check_writable(path: Path | str) -> None:
    """Refuse a file's place before long work, not after it: its folder is made and tried.

    Raises
    ------
    EnhanceError
        If no file can be written at ``path``.
    """
    with contextlib.suppress(_Tried), atomic(path):
        raise _Tried


class _Tried(Exception):
    """Leaves `atomic` without a file."""

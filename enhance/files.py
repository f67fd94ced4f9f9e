"""Files that are either whole or absent, hashes, and the cache folder."""

from __future__ import annotations

import codecs
import contextlib
import enum
import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase as fnmatch
from pathlib import Path
from typing import Any

from enhance.errors import EnhanceError
from enhance.stopping import unwound_by_signals


class Kind(enum.Enum):
    """What stands at a path."""

    FILE = enum.auto()
    FOLDER = enum.auto()
    OTHER = enum.auto()
    """A pipe, a device, a socket."""


def kind_of(path: Path | str) -> Kind | None:
    """What stands at a path that a user gave, None for nothing.

    `Path.exists` and its kin raise where a name is too long or a folder may not be entered: here
    that is an `EnhanceError`.
    """
    try:
        mode = Path(path).stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise unwritable(path, error, "reached") from error
    if stat.S_ISREG(mode):
        return Kind.FILE
    return Kind.FOLDER if stat.S_ISDIR(mode) else Kind.OTHER


def refuse_existing(path: Path | str, *, force: bool) -> None:
    """Refuse, before any work, what a command would overwrite: an `EnhanceError`."""
    if not force and kind_of(path) is not None:
        raise EnhanceError(f"{path}: exists already; overwrite it with --force")


def is_folder(path: Path | str) -> bool:
    """Whether a folder stands at a path; an `EnhanceError` as `kind_of`."""
    return kind_of(path) is Kind.FOLDER


def is_file(path: Path | str) -> bool:
    """Whether a regular file stands at a path; an `EnhanceError` as `kind_of`."""
    return kind_of(path) is Kind.FILE


def resolved(path: Path | str) -> Path:
    """The absolute path without links; an `EnhanceError` if they lead nowhere."""
    try:
        return Path(path).resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise unwritable(path, error, "reached") from error


def named(path: Path | str) -> Path:
    """The path, or the absolute one of ``.`` and ``..``, which have no name of their own."""
    path = Path(path)
    return path if path.name not in ("", "..") else resolved(path)


def expanded(path: Path | str) -> Path:
    """The path with the home folder in the place of ``~``; an `EnhanceError` if it is nobody's."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise EnhanceError(f"{path}: is in no home folder known here; write it in full") from error


def walk(
    root: Path, suffixes: Collection[str], onerror: Callable[[OSError], None] | None = None
) -> Iterator[Path]:
    """Files below a folder with one of these suffixes, in the order of names; none hidden."""
    for place, folders, names in os.walk(root, onerror=onerror):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and Path(name).suffix.lower() in suffixes:
                yield Path(place, name)


def same_file(one: Path | str, other: Path | str) -> bool:
    """Whether two paths lead to one place, by name or by hard link."""
    if resolved(one) == resolved(other):
        return True
    return kind_of(one) is not None and kind_of(other) is not None and Path(one).samefile(other)


def _beside(path: Path, kind: str, suffix: str = "") -> Path:
    """A free hidden name beside ``path`` that is not longer than its own, or 64 bytes."""
    suffix = suffix if len(os.fsencode(suffix)) < 16 else ""
    ending = f".{secrets.token_hex(4)}.{kind}{suffix}"
    stem = path.name.removesuffix(suffix)
    room = max(64, len(os.fsencode(path.name))) - len(os.fsencode(ending)) - 1
    while len(os.fsencode(stem)) > room:
        stem = stem[:-1]
    return path.with_name(f".{stem}{ending}")


@contextlib.contextmanager
@unwound_by_signals
def atomic(path: Path | str, *, force: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that takes its name on success.

    The temporary name keeps the suffix (libraries choose a format by it). A file that is replaced
    leaves its permissions; without ``force`` none is, not even one made meanwhile. On any
    exception, Ctrl-C, SIGTERM and SIGHUP included, the temporary file is removed and an older file
    at ``path`` is left as it was. A link at ``path`` is replaced, what it leads to stays.

    An `EnhanceError` if the folder cannot be made or written, or something else than a file stands
    there.
    """
    path = Path(path)
    kind = kind_of(path)
    if kind is Kind.FOLDER:
        raise EnhanceError(f"{path}: is a folder, a file was to be written there")
    if kind is Kind.OTHER:
        raise EnhanceError(f"{path}: is a device or a pipe, a file was to be written there")
    try:
        temporary = _beside(path, "part", path.suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise unwritable(path, error) from error
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        old = kind_of(path)
        if old is not None and not force:
            raise _overtaken(path)
        if old is not None and not path.is_symlink():
            mode = path.stat().st_mode
        temporary.chmod(mode)  # safetensors makes files that only their owner may read
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError, ValueError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise unwritable(path, error) from error
        raise


def unwritable(path: Path | str, error: Exception, what: str = "written") -> EnhanceError:
    """The refusal of a place where nothing can be written."""
    why = getattr(error, "strerror", None) or error
    if isinstance(error, FileExistsError | NotADirectoryError):
        why = "a folder above it is a file"
    return EnhanceError(f"{path}: cannot be {what} ({why}); choose another place")


def _overtaken(path: Path) -> EnhanceError:
    return EnhanceError(f"{path}: was made by another process meanwhile; --force replaces it")


def unreadable(path: Path | str, error: Exception) -> EnhanceError:
    """The refusal of a file that cannot be read."""
    return EnhanceError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})")


def read_text(path: Path | str, missing: str = "") -> str:
    """All of a text file; an `EnhanceError` if it cannot be read, or is none.

    ``missing`` says what it means if there is no such file.
    """
    try:
        return Path(path).read_text("utf-8")
    except (OSError, ValueError) as error:
        if missing and isinstance(error, FileNotFoundError):
            raise EnhanceError(f"{path}: {missing}") from error
        raise unreadable(path, error) from error


def read_json(path: Path, missing: str = "no such file") -> dict[str, Any]:
    """Read one JSON object; an `EnhanceError` if there is none. For ``missing`` see `read_text`."""
    text = read_text(path, missing=missing)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise EnhanceError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(value, dict):
        raise EnhanceError(f"{path}: holds no JSON object")
    return value


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON that can be stored as UTF-8, whatever bytes a file name in it has."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # a name that is not UTF-8: escaped, it comes back as it was
        text = json.dumps(value, indent=indent)
    return text


def write_text(path: Path | str, text: str) -> None:
    """Write text as UTF-8, atomically; bytes of a file name that are not UTF-8 as ``\\udcff``."""
    with atomic(path) as temporary:
        temporary.write_text(text, "utf-8", "backslashreplace")


def write_json(path: Path | str, value: Any) -> None:
    """Write indented JSON, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(to_json(value, 2) + "\n", "utf-8")


def write_jsonl(path: Path | str, rows: Iterable[Any]) -> None:
    """Write one JSON value a line, atomically."""
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(to_json(row) + "\n")


def append_jsonl(path: Path | str, row: Any) -> None:
    """Append one JSON value as a line; where it cannot be written, nothing of it stays.

    That is an `EnhanceError`, as where the disk takes no more.
    """
    data = (to_json(row) + "\n").encode("utf-8")
    try:
        with Path(path).open("ab", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            try:
                while data:  # a disk that is nearly full takes a part
                    data = data[file.write(data) :]
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(before)
                raise
    except OSError as error:
        raise unwritable(path, error) from error


def read_jsonl(path: Path | str, *, unfinished: bool = False) -> list[Any]:
    """Read one JSON value a line; an `EnhanceError` names the line that is none.

    Where a file may be ``unfinished``, a last line that was cut off in writing is left out.
    """
    try:
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    rows = []
    # Some editors put a mark before the first line. Of bytes: a name may hold other ends of a line.
    lines = data.removeprefix(codecs.BOM_UTF8).splitlines()
    cut_off = len(lines) if unfinished and not data.endswith(b"\n") else 0
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                rows.append(json.loads(line.decode()))
            except (ValueError, RecursionError) as error:
                if number == cut_off:
                    break
                if isinstance(error, UnicodeDecodeError):
                    raise unreadable(path, error) from error
                raise EnhanceError(f"{path}, line {number}: not JSON ({error})") from error
    return rows


def sha256(path: Path | str) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error


def cache_folder(*parts: str) -> Path:
    """Folder for things that can be made again: ``$XDG_CACHE_HOME/enhance`` or its default."""
    root = os.environ.get("XDG_CACHE_HOME")
    base = Path(root) if root else expanded("~/.cache")
    return base.joinpath("enhance", *parts)


@contextlib.contextmanager
@unwound_by_signals
def atomic_folder(
    path: Path | str, *, holds: Sequence[str], reads: Iterable[Path] = (), force: bool = False
) -> Iterator[Path]:
    """Yield a temporary folder beside ``path`` that takes its name on success.

    On any exception, Ctrl-C, SIGTERM and SIGHUP included, the temporary folder is removed and an
    older folder at ``path`` is left as it was. A link there is replaced, what it leads to stays.

    ``force`` replaces an older folder, but only one with nothing in it but ``holds``, the names of
    what will lie there, patterns as of a shell: any other was not made so. ``reads`` is what is
    read meanwhile and must not lie in the folder.

    An `EnhanceError` if something stands at ``path`` at the start or the end (an empty folder does
    not count) and may not be replaced, or the folder cannot be made.
    """
    path = Path(path)
    real = named(path)
    try:
        temporary, old = _beside(real, "part"), _beside(real, "old")
        _check_replaced(path, real, holds, reads, force)
    except (OSError, ValueError) as error:
        raise unwritable(path, error, "made") from error
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if force and real.exists():
            real.replace(old)
        temporary.replace(real)  # refused by the system where another writer was first
        if old.is_symlink():
            old.unlink()
        shutil.rmtree(old, ignore_errors=True)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if old.exists() and not real.exists():
            old.replace(real)
        if isinstance(error, OSError):
            # As the system answers where a folder would replace a full folder or a file.
            occupied = error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)
            if occupied and not force and real.exists():
                raise _overtaken(path) from error
            raise unwritable(path, error, "made") from error
        raise


def _check_replaced(
    path: Path, real: Path, holds: Sequence[str], reads: Iterable[Path], force: bool
) -> None:
    """Refuse to replace what stands at the place of `atomic_folder`."""
    kind = kind_of(real)
    if kind is None:
        return
    if kind is not Kind.FOLDER:
        raise EnhanceError(f"{path}: is a file, a folder was to be made there")
    names = sorted(entry.name for entry in real.iterdir())
    if not names:
        return
    inside = resolved(real)
    for read in map(resolved, reads):
        if inside == read or inside in read.parents:
            raise EnhanceError(f"{path}: holds what is read ({read}); choose another place")
    refuse_existing(path, force=force)
    others = [name for name in names if not any(fnmatch(name, form) for form in holds)]
    if others:
        raise EnhanceError(
            f"{path}: holds {others[0]}, which was not made by this command, and is not replaced; "
            "choose another place"
        )


@contextlib.contextmanager
@unwound_by_signals
def temporary_folder(inside: Path | None = None) -> Iterator[Path]:
    """A folder that is gone afterwards, on Ctrl-C, SIGTERM and SIGHUP too.

    ``inside`` says where, as for workers on other machines; None takes the system's place.
    """
    with tempfile.TemporaryDirectory(dir=inside) as folder:
        yield Path(folder)


def check_writable(path: Path | str) -> None:
    """Refuse by an `EnhanceError` a file's place before long work, not after it.

    Its folder is made and tried.
    """
    with contextlib.suppress(_Tried), atomic(path):
        raise _Tried


class _Tried(Exception):
    """Leaves `atomic` without a file."""

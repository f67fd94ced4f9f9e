"""A run's folder: begun, resumed, branched off another, or refused; and the files it hears.

A branch is a new run that goes on from the whole state of another, under settings of its own.
Weights, averages, the optimiser's moments and the counts of steps and seconds are taken over, so
that schedule of mixtures and warm-up go on; the budget counts from the branch. With
``training.schedule=wsd`` and ``training.decay_share=1`` it is a decay, which makes a model to ship
of any state of a long run; that run is only read, and may go on meanwhile.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from enhance.config import RunConfig
from enhance.config.settings import dump_yaml, load_yaml, parse, to_dict
from enhance.data.corpus.manifest import Clip
from enhance.data.mixing.rooms import Response
from enhance.errors import EnhanceError
from enhance.files import atomic, read_jsonl, sha256, unwritable, write_jsonl
from enhance.network.checkpoint import HEARD, WEIGHTS, difference
from enhance.network.tensors import load_tensors, save_tensors
from enhance.progress import tracked
from enhance.training.engine.processes import resolve
from enhance.training.engine.record import HISTORY
from enhance.training.engine.state import FILE, FORMAT, read_header
from enhance.training.optim.schedule import is_stable, progress, since

CONFIG = "config.yaml"
HARMLESS = frozenset(
    {
        "data.workers",
        "data.cache_mb",
        "data.cache_gb",
        "training.checkpoint_every",
        "training.keep",
        "training.threads",
    }
)
"""Settings that may change on resume: the weights do not depend on them (`threads` may change the
last bits)."""
CACHES = ("cache", "cache_gb", "precompute")
"""Settings of an objective that may change on resume: where and how much it remembers."""
PLACES = ("data.corpus", "data.speech", "data.noise")
"""Settings that may change on resume: that the files are the same, `check_data` sees to."""
BUDGET = ("training.steps", "training.minutes")
"""Settings that may change on resume, with a warning: the rest of the run follows a schedule that
no run from the start would have followed. Not so in the stable part of a `wsd` schedule."""
_TENSORS = ("mode", "model.", "described.", "training.optimizer")
"""Settings that the tensors of a state depend on."""


def precision(
    file: Path, tag: str, asked: str, resume: bool, accelerator: str
) -> tuple[str, list[str]]:
    """The precision of a run: what was asked for, or, where that is `auto`, what it began in.

    ``file`` is the state of the run, ``tag`` its format. Returns ``fp32`` or ``bf16``, and lines
    that the user should read.
    """
    here = resolve(asked, accelerator)
    if asked != "auto" or not resume or not file.is_file():
        return here, []
    began = load_tensors(file, tag, tensors=False)[1].get("precision")
    if began is None:
        return here, [f"{file}: does not tell its precision; the run goes on in {here}"]
    if began != here:
        return began, [f"{file}: goes on in {began}, as it began; `auto` is {here} on this machine"]
    return here, []


def check(run: Path, config: RunConfig, describe: dict[str, Any], resume: bool) -> list[str]:
    """Refuse a new run that would overwrite one, and to go on where there is none, its state is
    missing, or its settings differ.

    ``config`` is resolved, ``describe`` the objective's `describe()`. Returns lines that the user
    should read.
    """
    if not resume:
        refuse_present(run)
        return []
    present = _present(run)
    if not present:
        raise EnhanceError(f"{run}: there is no run to resume")
    if FILE in present:
        return _compare(run, read_header(run / FILE), config, describe)
    if present != [CONFIG]:
        started = f"--init {run}" if WEIGHTS in present else "another name"
        raise EnhanceError(
            f"{run}: holds {present[-1]} but no {FILE}, without which it cannot go on; bring that "
            f"file back, or start a new run with {started}"
        )
    return [f"{run}: was stopped before its first step, starts from step 0"]


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a folder from any other process that trains; it is made if absent.

    An `EnhanceError` if one is at it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=0).acquire()
    except Timeout as error:
        raise EnhanceError(
            f"{folder}: another process is training there; wait for its end, or choose another "
            "folder"
        ) from error
    except OSError as error:
        raise unwritable(folder, error) from error
    with lock:
        yield


def tell(lines: Sequence[str], quiet: bool) -> None:
    """Print lines on standard error."""
    for line in () if quiet else lines:
        print(line, file=sys.stderr, flush=True)


def write(run: Path, config: RunConfig) -> None:
    """Write config.yaml."""
    with atomic(run / CONFIG) as temporary:
        temporary.write_text(dump_yaml(config), "utf-8")


def refuse_present(run: Path) -> None:
    """Refuse a folder that holds a run, naming what says so."""
    present = _present(run)
    if present:
        raise EnhanceError(
            f"{run}: holds a run already ({present[0]}); --resume goes on with it, "
            "another name starts a new one"
        )


def _present(run: Path) -> list[str]:
    return [name for name in (CONFIG, FILE, WEIGHTS, HISTORY) if (run / name).exists()]


def of_cache(key: str) -> bool:
    """Whether a setting says where and how much an objective remembers."""
    names = key.split(".")
    return names[0] in ("objective", "described") and names[-1] in CACHES


def _compare(
    run: Path, header: dict[str, Any], config: RunConfig, describe: dict[str, Any]
) -> list[str]:
    before, changed = _changed(run / FILE, header, to_dict(config), describe)
    allowed = HARMLESS.union(PLACES, BUDGET)
    refused = [c for c in changed if c[0] not in allowed and not of_cache(c[0])]
    if refused:
        text = ", ".join(f"{key} was {old!r}, is {now!r}" for key, old, now in refused)
        raise EnhanceError(
            f"{run}: cannot go on with other settings ({text}); "
            f"use the old ones, or start a new run with --init {run}"
        )
    step, seconds = header["step"], header["seconds"]
    spent = since(header.get("branch"), step, seconds)
    used, used_before = (progress(c.training, *spent) for c in (config, before))
    if used >= 1:
        raise EnhanceError(
            f"{run}: has used its budget ({spent[0]} steps, {spent[1] / 60:.1f} minutes); "
            "a larger training.steps or training.minutes goes on"
        )
    if is_stable(before.training, used_before) and is_stable(config.training, used):
        return []
    return [
        f"{run}: {key} was {then}, is {now}: from step {step} on the learning rate follows the "
        "new budget, which no run from the start would give"
        for key, then, now in changed
        if key in BUDGET
    ]


def _changed(
    file: Path, header: dict[str, Any], config: dict[str, Any], describe: dict[str, Any]
) -> tuple[RunConfig, list[tuple[str, Any, Any]]]:
    """The configuration in a state, and what is set otherwise now, see `difference`."""
    # What came after the state was written has its default, which changes nothing.
    before = parse(RunConfig, header["config"], str(file))
    old = {**to_dict(before), "described": header["objective"]}
    return before, difference(old, {**config, "described": describe})


def check_branch(run: Path, parent: Path, config: dict[str, Any], describe: dict[str, Any]) -> None:
    """Refuse what cannot be branched: a folder ``run`` that holds a run, a ``parent`` without a
    state, or with one of another model, mode or optimiser.

    ``config`` and ``describe`` are the new run's configuration and what its objective says of
    itself, plain data. Nothing is written.
    """
    refuse_present(run)
    if not (parent / FILE).is_file():
        raise EnhanceError(
            f"{parent}: has no {FILE} to branch from; --init starts from weights alone"
        )
    _, changed = _changed(parent / FILE, read_header(parent / FILE), config, describe)
    for key, theirs, ours in changed:
        if key.startswith(_TENSORS) and not of_cache(key):
            raise EnhanceError(
                f"{parent}: its state is that of another run ({key} is {theirs!r} there, {ours!r} "
                "here); give the branch the same settings, or start a new run with --init"
            )


def begin_branch(
    run: Path, parent: Path, config: dict[str, Any], data: str, groups: str
) -> list[str]:
    """Write the state from which the branch is resumed; see `check_branch`.

    ``data`` is the `fingerprint` of the new run's files, ``groups`` that of `grouping`. Returns
    lines that the user should read.
    """
    tensors, header = load_tensors(parent / FILE, FORMAT)
    source = {**origin(parent, FILE), "step": header["step"], "seconds": header["seconds"]}
    fresh = {"config": config, "branch": source, "used": 0.0, "best": None}
    fresh |= {"data": data, "groups": groups}
    save_tensors(run / FILE, tensors, {**header, **fresh, "sums": {}, "counts": {}}, FORMAT)
    if header["data"] == data:
        return []
    return [f"{run}: trains on other files than {parent}; its heard.jsonl names its own only"]


def told(folder: Path) -> str:
    """How records name a folder: its place on this machine is nobody's business, unless it was
    named from here.
    """
    return folder.name if folder.is_absolute() else folder.as_posix()


def origin(folder: Path, name: str) -> dict[str, str]:
    """What the record says of a file of another run that this one begins with."""
    return {"checkpoint": told(folder), "sha256": sha256(folder / name)}


def check_data(run: Path, found: str, groups: str) -> None:
    """Refuse to go on with training files of another `fingerprint`, or another `grouping`, than the
    state's."""
    header = read_header(run / FILE)
    # States that are older than groupings tell none.
    if (header["data"], header.get("groups", groups)) != (found, groups):
        raise EnhanceError(
            f"{run}: the training files are others than when it began (files were added, removed, "
            "changed in length or labelled otherwise); put them back, or start a new run with "
            f"--init {run}"
        )


def forget_moved(run: Path, config: dict[str, Any]) -> None:
    """Remove heard.jsonl of a run that goes on with files at other places than before: unchanged
    files there need not have the bytes of those that it names.

    ``config`` is the configuration now, plain data. The state may be older than config.yaml.
    """
    before = [read_header(run / FILE)["config"]]
    if (run / CONFIG).is_file():
        before.append(load_yaml(run / CONFIG))
    now = _places(config)
    if any(_places(old) != now for old in before):
        (run / HEARD).unlink(missing_ok=True)


def _places(config: dict[str, Any]) -> list[Any]:
    data = config.get("data") or {}
    return [data.get(key.removeprefix("data.")) for key in PLACES]


def fingerprint(clips: Sequence[Clip]) -> str:
    """Hash of which files, in which order and of which length, a run draws from.

    Wherever the corpus lies: paths count from the folder that all files share.
    """
    digest = hashlib.sha256()
    for place, clip in zip(below_common([clip.path for clip in clips]), clips, strict=True):
        # Names need not be UTF-8: those that are not keep their bytes.
        digest.update(f"{place}\0{clip.duration!r}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def grouping(*stores: Sequence[Clip], rooms: Sequence[Response] = ()) -> str:
    """Hash of what mixtures follow from beside the files: which clips of a store are of one source,
    speaker or recording, the order of its sources, and the room impulse responses of a folder.

    Names do not count, as those of sources may come from where the corpus lies.
    """
    numbers: dict[tuple[str, str], int] = {}
    digest = hashlib.sha256()
    for clips in stores:
        sources = {name: i for i, name in enumerate(sorted({clip.source for clip in clips}))}
        for clip in clips:
            keys = [("speaker", clip.speaker), *(("recording", name) for name in clip.recordings)]
            found = [numbers.setdefault(key, len(numbers)) if key[1] else -1 for key in keys]
            digest.update(f"{sources[clip.source]} {found}\n".encode())
    for room in rooms:
        digest.update(f"{len(room.wave)} {room.direct}\n".encode())
    return digest.hexdigest()


def below_common(paths: Sequence[Path]) -> list[str]:
    """Paths counted from the deepest folder that holds them all."""
    if not paths:
        return []
    folder = os.path.commonpath([path.absolute().parent for path in paths])
    return [path.absolute().relative_to(folder).as_posix() for path in paths]


def _known(path: Path) -> dict[tuple[str, str], str]:
    """Hashes of a list that `write_heard` wrote, by path and kind."""
    rows = read_jsonl(path)
    for number, row in enumerate(rows, 1):
        named = row if isinstance(row, dict) else {}
        if not all(isinstance(named.get(key), str) for key in ("path", "kind", "sha256")):
            raise EnhanceError(
                f"{path}: is damaged (row {number} is no file with path, kind and sha256); remove "
                "it: it is written anew"
            )
    return {(row["path"], row["kind"]): row["sha256"] for row in rows}


def write_heard(
    run: Path, parts: dict[str, Sequence[Clip]], *, keep: bool = False, quiet: bool = False
) -> None:
    """Write heard.jsonl: every file of training and validation with the SHA-256 of its bytes.

    Paths count from the folder that all of them share. ``parts`` are clips by part, ``"train"`` and
    ``"validation"``. ``keep`` takes the hashes of files that have not changed since the list was
    written from it; a damaged list is refused by an `EnhanceError`.
    """
    path = run / HEARD
    clips = [(part, clip) for part, some in parts.items() for clip in some]
    known, written = {}, 0
    if keep and path.is_file():
        written = path.stat().st_mtime_ns
        known = _known(path)

    def digest(place: str, clip: Clip) -> str:
        old, about = known.get((place, clip.kind)), clip.path.stat()
        # The time of a change of name counts too: a replaced file may keep its own old time.
        unchanged = max(about.st_mtime_ns, about.st_ctime_ns) < written
        return old if old and unchanged else sha256(clip.path)

    places = below_common([clip.path for _, clip in clips])
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(digest, places, [clip for _, clip in clips])
        hashes = list(tracked(found, "hashing files", len(clips), quiet=quiet))
    rows = [
        {
            "path": place,
            "kind": clip.kind,
            "source": clip.source,
            "speaker": clip.speaker,
            "part": part,
            "recordings": list(clip.recordings),
            "sha256": value,
        }
        for (part, clip), place, value in zip(clips, places, hashes, strict=True)
    ]
    write_jsonl(path, rows)

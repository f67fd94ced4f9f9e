"""Evaluation sets: folders with ``clean/`` and ``noisy/`` files of the same names.

A set made here is frozen: its manifest holds the hash of every file, and a set whose files have
changed since is refused. Any other folder of that shape can be opened as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from enhance.audio.write import SUFFIXES, write
from enhance.config import DataConfig, MixingConfig
from enhance.data.corpus import demo_corpus
from enhance.data.corpus.clip_store import ClipStore
from enhance.data.corpus.clips import load_clips, manifest_of, of_kind, split
from enhance.data.corpus.manifest import Clip, read_manifest, read_rows
from enhance.data.formulas import FAMILIES
from enhance.data.mixing.mixer import Mixer
from enhance.data.mixing.recipe import Formula, Piece, Recipe
from enhance.errors import EnhanceError
from enhance.files import atomic_folder, cache_folder, is_folder, sha256, walk, write_jsonl
from enhance.progress import tracked

BUILTIN_SEED = 7001
"""Of the built-in set's voices, noises and mixtures; training uses another."""
_BUILTIN_VERSION = 1
_HOLDS = ("clean", "noisy", "manifest.jsonl")


@dataclass(frozen=True)
class EvaluationSet:
    """Pairs of clean and noisy files."""

    folder: Path
    pairs: tuple[tuple[str, Path, Path, dict[str, str]], ...]
    """Name, clean file, noisy file, labels; in the order of the names."""
    hash: str
    """SHA-256 over the sorted names and the hashes of both files of each pair."""

    def __len__(self) -> int:
        return len(self.pairs)


def make_set(
    speech: Sequence[Clip],
    noise: Sequence[Clip],
    folder: Path | str,
    *,
    snr_db: float = -5.0,
    count: int = 500,
    seconds: float = 4.0,
    seed: int = 0,
    sample_rate: int = 16000,
    balance: float = 0.5,
    formulas: float = 0.0,
    force: bool = False,
    quiet: bool = False,
) -> EvaluationSet:
    """Mix a frozen set; what ``enhance data mix`` does.

    The same clips, settings and seed give the same set. Nothing is left behind where it fails or
    is interrupted.

    Parameters
    ----------
    speech, noise
        What to draw from, see `enhance.data.mixing.mixer.Mixer`.
    folder
        To be made.
    snr_db
        10 log10(sum s^2 / sum n^2) over each whole clip; kept to 0.01 dB by the 16-bit files.
    count, seconds, sample_rate
        Number of pairs, and what each is.
    balance
        A source is drawn with probability in proportion to its hours to this power.
    formulas
        Share of the noises that come from formulas, of streams that training never draws.
    force
        Replace what stands at ``folder``.

    Raises
    ------
    EnhanceError
        If something stands at ``folder`` already, or a number makes no sense.
    """
    if not 1 <= count <= 100_000:
        raise EnhanceError(f"count {count}: must be from 1 to 100000")
    if not -60 <= snr_db <= 60:
        raise EnhanceError(f"SNR {snr_db:g} dB: must be from -60 to 60")
    if not 0 <= formulas <= 1:
        raise EnhanceError(f"share of formulas {formulas}: must be from 0 to 1")
    config = MixingConfig(
        snr=(snr_db, snr_db),
        level_dbfs=(-30.0, -22.0),
        segment_seconds=seconds,
        synthetic_noise_probability=formulas,
    )
    digits = max(4, len(str(count - 1)))
    reads = [clip.path for clip in (*speech, *noise)]
    with atomic_folder(folder, holds=_HOLDS, reads=reads, force=force) as place:
        stores = [
            # Decoding in advance pays where most clips will be drawn.
            ClipStore(
                clips, sample_rate, 2000 if len(clips) <= count else 0, name=name, quiet=quiet
            )
            for clips, name in ((speech, "speech"), (noise, "noise"))
        ]
        mixer = Mixer(stores[0], stores[1], config, seed, balance)
        rows = []
        for index in tracked(range(count), "mixing", count, quiet=quiet):
            recipe = _held_out(mixer.draw(0, index))
            mixture = mixer.render(recipe)
            name = f"{index:0{digits}d}"
            clean, noisy = _sixteen_bits(mixture.clean, mixture.noisy, snr_db, name)
            hashes = {}
            for part, wave in (("clean", clean), ("noisy", noisy)):
                path = place / part / f"{name}.flac"
                write(path, wave / np.float32(32768), sample_rate)
                hashes[f"{part}_sha256"] = sha256(path)
            rows.append({
                "name": name,
                "path": f"noisy/{name}.flac",
                "duration": len(clean) / sample_rate,
                "sample_rate": sample_rate,
                **hashes,
                "seed": seed,
                "labels": _labels(mixer, recipe, snr_db),
            })  # fmt: skip
        write_jsonl(place / "manifest.jsonl", rows)
    return open_set(folder)


def open_set(folder: Path | str) -> EvaluationSet:
    """Open a folder with ``clean/`` and ``noisy/``.

    Files are paired by name, subfolders included, suffixes aside. Labels come from
    ``manifest.jsonl`` or ``manifest.csv``, where there is one.

    Raises
    ------
    EnhanceError
        If a file has no partner, there is no pair, or a set that was frozen has changed: other
        hashes than in the manifest, more pairs or fewer.
    """
    folder = Path(folder)
    if not is_folder(folder):
        raise EnhanceError(f"{folder}: no such evaluation set")
    for part in ("clean", "noisy"):
        if not is_folder(folder / part):
            raise EnhanceError(
                f"{folder}: an evaluation set has subfolders clean/ and noisy/; {part}/ is missing"
            )
    clean, noisy = (by_name(folder / part) for part in ("clean", "noisy"))
    alone = sorted(set(clean) ^ set(noisy))
    if alone:
        raise EnhanceError(
            f"{folder}: {len(alone)} files stand in only one of clean/ and noisy/, first {alone[0]}"
            "; a pair has one name in both, suffixes aside"
        )
    if not clean:
        raise EnhanceError(f"{folder}: clean/ and noisy/ hold no audio")
    rows = _manifest_rows(folder)
    new = sorted(set(clean) - set(rows)) if any("clean_sha256" in r for r in rows.values()) else []
    if new:
        raise EnhanceError(
            f"{folder}: {len(new)} pairs came after the set was made, first {new[0]}; take them "
            "away, or make a set of your own of them"
        )
    digest = hashlib.sha256()
    pairs = []
    for name in sorted(clean):
        row, hashes = rows.get(name, {}), (sha256(clean[name]), sha256(noisy[name]))
        recorded = (row.get("clean_sha256", hashes[0]), row.get("noisy_sha256", hashes[1]))
        if recorded != hashes:
            raise EnhanceError(f"{folder}: pair {name} has changed since the set was made")
        # Names need not be UTF-8: those that are not keep their bytes.
        digest.update("\t".join((name, *hashes, "\n")).encode("utf-8", "surrogateescape"))
        pairs.append((name, clean[name], noisy[name], _text_labels(row)))
    missing = sorted(set(rows) - set(clean))
    if missing:
        raise EnhanceError(
            f"{folder}: {len(missing)} pairs of the manifest are not there, first {missing[0]}"
        )
    return EvaluationSet(folder, tuple(pairs), digest.hexdigest())


def builtin_set(snr_db: float = -5.0, count: int = 500, *, quiet: bool = False) -> EvaluationSet:
    """The built-in synthetic set at one SNR; made on first use.

    Its voices, noises and mixtures come from another seed than the built-in training corpus.
    """
    version = f"v{demo_corpus.VERSION}.{_BUILTIN_VERSION}"
    folder = cache_folder("sets", f"synthetic-{version}-snr{snr_db:g}-count{count}")

    def making() -> None:
        clips = _builtin_clips(quiet)
        make_set(*clips, folder, snr_db=snr_db, count=count, seed=BUILTIN_SEED, quiet=quiet)

    return open_set(demo_corpus.once(folder, making))


def mix(
    data: DataConfig,
    folder: Path | str,
    *,
    held_back: bool = False,
    held_out: bool = False,
    quiet: bool = False,
    **settings: Any,
) -> EvaluationSet:
    """What ``enhance data mix`` does: `make_set`, with its settings, from what ``data`` names.

    ``held_back`` takes only what training on the same configuration keeps for validation,
    ``held_out`` only the sources that it leaves out. With none of these and nothing named: from
    synthetic voices and noises that the built-in training corpus does not hold.

    An `EnhanceError` as of `load_clips`, `split` and `make_set`.
    """
    if held_back and held_out:
        raise EnhanceError("held back is a part of what is not held out: ask for one of the two")
    if data.corpus or data.speech or data.noise or held_back or held_out:
        speech, noise = load_clips(data, held_out=held_out, quiet=quiet)
        if held_back:
            speech = split(speech, data.held_back)[1]
            noise = split(noise, data.held_back, "path")[1]
    else:
        speech, noise = _builtin_clips(quiet)
    return make_set(speech, noise, folder, balance=data.balance, quiet=quiet, **settings)


def _builtin_clips(quiet: bool) -> tuple[list[Clip], list[Clip]]:
    clips = read_manifest(demo_corpus.ensure_held_out(BUILTIN_SEED, quiet=quiet) / "manifest.jsonl")
    return of_kind(clips, "speech"), of_kind(clips, "noise")


def _sixteen_bits(
    clean: np.ndarray, noisy: np.ndarray, snr_db: float, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Round speech and noise apart: int16 files whose difference is the noise exactly."""
    speech = np.rint(clean * 32767)
    noise = np.rint((noisy - clean) * 32767)
    energies = [float(np.square(wave, dtype=np.float64).sum()) for wave in (speech, noise)]
    found = 10 * np.log10(energies[0] / energies[1]) if min(energies) > 0 else np.nan
    if not abs(found - snr_db) < 0.01:
        raise EnhanceError(
            f"pair {name}: 16-bit files would be at {found:.2f} dB instead of {snr_db:g}; "
            "choose an SNR nearer to 0"
        )
    return speech.astype(np.int16), (speech + noise).astype(np.int16)


def _held_out(recipe: Recipe) -> Recipe:
    """The same with formulas of streams that training never draws."""
    rows = tuple(
        tuple(replace(x, held_out=True) if isinstance(x, Formula) else x for x in row)
        for row in recipe.noise
    )
    return replace(recipe, noise=rows)


def _labels(mixer: Mixer, recipe: Recipe, snr_db: float) -> dict[str, str]:
    """What reports group pairs and cluster them by; of several noises the first names the pair."""
    talk = [mixer.speech.clips[piece.clip] for piece in recipe.speech]
    pieces = [piece for row in recipe.noise for piece in row]
    sound = [mixer.noise.clips[piece.clip] for piece in pieces if isinstance(piece, Piece)]
    made = [piece.kind for piece in pieces if isinstance(piece, Formula)]
    name, kind = _main_noise(mixer, pieces[0])

    def joined(values: Iterable[str]) -> str:
        return " ".join(dict.fromkeys(value for value in values if value))

    labels = {
        "snr_db": f"{snr_db:g}",
        "source": joined(clip.source for clip in talk),
        "speaker": joined(clip.speaker for clip in talk),
        "language": joined(clip.labels.get("language", "") for clip in talk),
        "noise_name": name,
        "noise_kind": kind,
        "noise_source": joined([*(clip.source for clip in sound), *(["formula"] if made else [])]),
        "noise_type": joined(clip.labels.get("type", "") for clip in sound),
        "noise_formulas": joined(made),
        "speech_files": joined(clip.path.name for clip in talk),
        "noise_files": joined(clip.path.name for clip in sound),
        "source_files": joined(
            name.rsplit("/", 1)[-1] for clip in (*talk, *sound) for name in clip.recordings
        ),
        "synthetic": "yes" if any(clip.labels.get("synthetic") for clip in (*talk, *sound)) else "",
    }
    return {key: value for key, value in labels.items() if value}


def _main_noise(mixer: Mixer, piece: Piece | Formula) -> tuple[str, str]:
    """Name of the recording, or formula, and its kind: ``type``, or the first words of ``note``."""
    if isinstance(piece, Formula):
        family = next(name for name, kinds in FAMILIES.items() if piece.kind in kinds)
        return f"formula:{piece.kind}", f"formula: {family}"
    clip = mixer.noise.clips[piece.clip]
    recording = clip.recordings[0]
    name = clip.path.name if recording == str(clip.path) else recording
    return name, clip.labels.get("type") or clip.labels.get("note", "").split(";")[0].strip()


def by_name(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in walk(folder, SUFFIXES):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise EnhanceError(f"{path}: has the same name as {found[name]}, suffix aside")
        found[name] = path
    return found


def _manifest_rows(folder: Path) -> dict[str, dict[str, Any]]:
    manifest = manifest_of(folder)
    if manifest is None:
        return {}
    found: dict[str, dict[str, Any]] = {}
    rows = read_rows(manifest)
    if rows and not any("path" in row for row in rows):
        columns = ", ".join(map(str, rows[0]))
        raise EnhanceError(f"{manifest}: has no column `path` (it has {columns})")
    for number, row in enumerate(rows, 1):
        path = PurePosixPath(str(row.get("path") or ""))
        if len(path.parts) < 2 or path.parts[0] not in ("clean", "noisy"):
            raise EnhanceError(f"{manifest}, entry {number}: `path` is not below clean/ or noisy/")
        name = PurePosixPath(*path.parts[1:]).with_suffix("").as_posix()
        # The clean file's row tells what the pair is about; the noisy one's adds to it.
        clean_first = path.parts[0] == "clean"
        old = found.get(name, {})
        row = {key: value for key, value in row.items() if value not in (None, "")}
        if not isinstance(row.get("labels", {}), dict):
            raise EnhanceError(f"{manifest}, entry {number}: `labels` must hold names and values")
        found[name] = {**old, **row} if clean_first else {**row, **old}
    return found


def _text_labels(row: dict[str, Any]) -> dict[str, str]:
    aside = {"name", "path", "kind", "duration", "seconds", "sample_rate", "labels", "seed"}
    aside |= {"clean_sha256", "noisy_sha256"}
    labels = {k: v for k, v in row.items() if k not in aside} | dict(row.get("labels") or {})
    return {str(k): str(v) for k, v in labels.items() if v not in (None, "")}

"""DNS Challenge: ``datasets/clean``, ``datasets/noise``, ``datasets/test_set/synthetic/no_reverb``.

The full-band edition (``datasets_fullband/clean_fullband``) has the same shape. Test files are
paired by the number at the end of their names, ``clean_fileid_158.wav`` and
``clnsp1_train_69005_1_snr15_tl-21_fileid_158.wav``: speech, noise, SNR, level, number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from enhance.audio.write import SUFFIXES
from enhance.data.corpus.manifest import Clip, scan_folder
from enhance.data.layouts.parts import Found, Pair, paired, write_pairs, write_training
from enhance.errors import EnhanceError
from enhance.files import is_folder, walk

TESTS = {"no_reverb": "test", "with_reverb": "test-reverb"}
"""Folders of the synthetic test set, and what they become."""
READER = r"reader_(\d+)"
"""Who reads, in names such as ``book_00000_chp_0009_reader_06709_0.wav``."""
_NUMBER = re.compile(r"fileid_(\d+)$")
_MIXED = re.compile(r"^(?P<speech>[^_]+)_(?P<noise>.+?)_snr(?P<snr>-?\d+)_tl-?\d+_fileid_\d+$")
_CUT = re.compile(r"^(.+_\d+)_\d+$")
"""``door_Freesound_validated_235661_0``: of a recording, the cut."""


def import_layout(source: Path, place: Path, quiet: bool) -> list[Found]:
    """Training manifest in ``train/``, test sets in ``test/`` and ``test-reverb/``; what is there.

    ``source`` is the repository, or the folder of data sets in it.
    """
    roots = [source, source / "datasets", source / "datasets_fullband"]
    found = []
    parts = [
        (kind, root / f"{name}{band}")
        for root in roots
        for kind, name in (("speech", "clean"), ("noise", "noise"))
        for band in ("", "_fullband")
        if is_folder(root / f"{name}{band}")
    ]
    tests = [
        (root / "test_set" / "synthetic" / test, made)
        for root in roots
        for test, made in TESTS.items()
        if is_folder(root / "test_set" / "synthetic" / test)
    ]
    if {kind for kind, _ in parts} not in (set(), {"speech", "noise"}) or not (parts or tests):
        raise EnhanceError(
            f"{source}: no DNS Challenge: it has folders clean and noise (or clean_fullband and "
            "noise_fullband) in datasets/, or test_set/synthetic/no_reverb"
        )
    there = [*parts, *((made, folder) for folder, made in tests)]
    for what, folder in there:
        if also := [other for name, other in there if name == what and other != folder]:
            raise EnhanceError(f"{folder}: stands in {also[0]} too; name one edition")
    if parts:
        found.append(_training(parts, place / "train", quiet))
    for folder, made in tests:
        pairs = _pairs(folder)
        write_pairs(place / made, pairs)
        found.append(Found(made, len(pairs)))
    return found


def _training(parts: list[tuple[str, Path]], place: Path, quiet: bool) -> Found:
    clips: list[Clip] = []
    problems: list[str] = []
    for kind, folder in parts:
        speaker = READER if kind == "speech" else ""
        scanned, refused = scan_folder(folder, kind=kind, speaker=speaker, quiet=quiet)
        for clip in scanned:
            below = clip.path.relative_to(folder).parts
            name = below[0] if len(below) > 1 else folder.name
            cut = _CUT.match(clip.path.stem)
            labels = {"recording": cut[1]} if cut and kind == "noise" else {}
            clips.append(replace(clip, source=f"dns-{name}", labels=labels))
        problems += refused
    return write_training(place, clips, problems)


def _pairs(folder: Path) -> list[Pair]:
    clean, noisy = (_numbered(folder / part) for part in ("clean", "noisy"))
    return [
        (f"fileid_{number}", clean[number], noisy[number], _labels(noisy[number]))
        for number in paired(clean, noisy, folder)
    ]


def _labels(noisy: Path) -> Mapping[str, str]:
    """What a name tells; speakers are not told."""
    labels = {"source": "dns"}
    if found := _MIXED.match(noisy.stem):
        cut = _CUT.match(found["noise"])
        labels |= {"speech_files": found["speech"], "snr_db": found["snr"]}
        labels["noise_name"] = cut[1] if cut else found["noise"]
    return labels


def _numbered(folder: Path) -> dict[str, Path]:
    if not is_folder(folder):
        raise EnhanceError(f"{folder}: is missing; a test set has clean/ and noisy/")
    found: dict[str, Path] = {}
    for path in walk(folder, SUFFIXES):
        number = _NUMBER.search(path.stem)
        if number is None or number[1] in found:
            why = "has no number fileid_N" if number is None else "has the number of another file"
            raise EnhanceError(f"{path}: {why} at the end of its name")
        found[number[1]] = path
    return found

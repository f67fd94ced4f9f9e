"""VoiceBank-DEMAND: ``clean_trainset_28spk_wav``, ``noisy_...``, ``clean_testset_wav``, logs.

Speech and noise come as sums; the noise is noisy minus clean, which is exact: both are 16-bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from enhance.audio import read as audio
from enhance.audio.write import SUFFIXES, write
from enhance.data.corpus.manifest import Clip, scan_folder
from enhance.data.layouts.parts import Found, paired, write_pairs, write_training
from enhance.errors import EnhanceError
from enhance.files import is_file, is_folder, read_text, walk
from enhance.progress import tracked

TRAINING = ("trainset_28spk", "trainset_56spk")
TEST = "testset"
SOURCE = "voicebank-demand"
_Log = Mapping[str, tuple[str, str]]
"""Which noise is in a file, by the file's name, and its SNR in dB."""


def import_layout(source: Path, place: Path, quiet: bool) -> list[Found]:
    """Training manifest with the noise in ``train/``, the test set in ``test/``; what is there."""
    training = [part for part in TRAINING if is_folder(source / f"noisy_{part}_wav")]
    tested = is_folder(source / f"noisy_{TEST}_wav")
    if not training and not tested:
        raise EnhanceError(
            f"{source}: no VoiceBank-DEMAND: it has folders noisy_trainset_28spk_wav (or 56spk) "
            "or noisy_testset_wav, with clean_... beside them"
        )
    found = []
    if training:
        found.append(_training(source, training, place / "train", quiet))
    if tested:
        clean, noisy = _files(source, TEST)
        log = _log(source, TEST)
        pairs = []
        for name in paired(clean, noisy, source / f"noisy_{TEST}_wav"):
            labels = {"source": SOURCE, "speaker": name.split("_", 1)[0]}
            if name in log:
                labels |= dict(zip(("noise_name", "snr_db"), log[name], strict=True))
            pairs.append((name, clean[name], noisy[name], labels))
        write_pairs(place / "test", pairs)
        found.append(Found("test", len(pairs)))
    return found


def _training(source: Path, parts: list[str], place: Path, quiet: bool) -> Found:
    clips: list[Clip] = []
    problems: list[str] = []
    for part in parts:
        clean, noisy = _files(source, part)
        log = _log(source, part)
        names = paired(clean, noisy, source / f"noisy_{part}_wav")
        speech, refused = scan_folder(
            source / f"clean_{part}_wav", kind="speech", source=SOURCE, speaker=r"(p\d+)_\d+",
            quiet=quiet,
        )  # fmt: skip
        clips += speech
        problems += refused
        whole = {clip.path.stem: clip for clip in speech}
        for name in tracked(names, "noise", len(names), quiet=quiet):
            if name in whole:
                try:
                    clips.append(_noise(whole[name], noisy[name], place / "noise" / part, log))
                except EnhanceError as error:
                    problems.append(str(error))
    return write_training(place, clips, problems)


def _noise(speech: Clip, noisy: Path, folder: Path, log: _Log) -> Clip:
    """Noisy minus clean, written; what plays of one recording is labelled as such."""
    there = audio.info(noisy)
    mixture, voice = audio.read(noisy), audio.read(speech.path)
    if there.sample_rate != speech.sample_rate or len(mixture) != len(voice):
        raise EnhanceError(f"{noisy}: has another length or rate than its clean file")
    wave = mixture - voice
    if abs(wave).max() >= 1:
        raise EnhanceError(f"{noisy}: less the clean file it is beyond full scale")
    path = folder / f"{speech.path.stem}.flac"
    write(path, wave, speech.sample_rate, subtype="PCM_16")
    labels = {}
    if mixed := log.get(speech.path.stem):
        labels = {"type": mixed[0], "recording": mixed[0]}
    return Clip(path, speech.duration, speech.sample_rate, "noise", SOURCE, labels=labels)


def _files(source: Path, part: str) -> tuple[dict[str, Path], dict[str, Path]]:
    """Clean and noisy files by name."""
    folders = [source / f"{kind}_{part}_wav" for kind in ("clean", "noisy")]
    for folder in folders:
        if not is_folder(folder):
            raise EnhanceError(f"{source}: {folder.name} is missing")
    clean, noisy = (_by_stem(place) for place in folders)
    return clean, noisy


def _by_stem(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in walk(folder, SUFFIXES):
        if found.setdefault(path.stem, path) != path:
            raise EnhanceError(f"{path}: {found[path.stem]} has the same name; keep one of them")
    return found


def _log(source: Path, part: str) -> _Log:
    """Lines such as ``p232_001 bus 17.5``; empty where there is no log."""
    for place in (source, source / "logfiles"):
        path = place / f"log_{part}.txt"
        if is_file(path):
            lines = [line.split() for line in read_text(path).splitlines()]
            for number, words in enumerate(lines, 1):
                if len(words) not in (0, 3):
                    raise EnhanceError(f"{path}, line {number}: expected a name, a noise, an SNR")
            return {words[0]: (words[1], words[2]) for words in lines if words}
    return {}

"""Clean a file or a folder: what ``enhance run`` does.

Samples flow reader -> `AlignedStream` -> writer by blocks, so that an hour takes the memory of a
second (an offline model holds back a whole file). Each output appears under its name only when it
is whole.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rich.progress import Progress, TaskID

from enhance import progress
from enhance.audio import ffmpeg
from enhance.audio.read import AudioInfo, AudioReader, info
from enhance.audio.write import SUFFIXES, AudioWriter, can_write, output_format, writer
from enhance.device.aligned_stream import AlignedStream, wet_share
from enhance.device.engine import Choice
from enhance.device.enhancer import Enhancer
from enhance.device.offline import Model, open_model
from enhance.device.upper_band import check_bandwidth
from enhance.errors import EnhanceError
from enhance.files import is_folder, kind_of, refuse_existing, resolved, same_file, unreadable, walk

# Encodings that an output may keep; the rest (8 bits, ADPCM) are too coarse or pad the length.
_KEPT = {"PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "VORBIS", "OPUS", "MPEG_LAYER_III"}
# What becomes 24 bits where it cannot be kept: 16 would lose of it.
_FINE = {"PCM_32", "FLOAT", "DOUBLE", "ALAC_20", "ALAC_24", "ALAC_32", "DWVW_24"}
_INPUTS = SUFFIXES | ffmpeg.SUFFIXES


@dataclass(frozen=True)
class CleanedFile:
    """One finished file."""

    input: Path
    output: Path
    duration: float
    """Seconds of audio."""
    clipped: int
    """Samples that were beyond full scale."""


@dataclass
class RunResult:
    """What a run has done."""

    files: list[CleanedFile] = field(default_factory=list)
    failures: list[tuple[Path, str]] = field(default_factory=list)
    """Input and the line that says what was wrong."""

    def tell(self, say: Callable[[str], None], took: float) -> None:
        """One line on what was done in so many seconds."""
        if self.files:
            seconds = sum(cleaned.duration for cleaned in self.files)
            many = len(self.files) > 1
            outputs = [cleaned.output for cleaned in self.files]
            folder = os.path.commonpath([output.parent for output in outputs])
            where = f"{folder}: {len(outputs)} files" if many else outputs[0]
            say(f"{where}: {seconds:.1f} s of audio cleaned in {took:.1f} s")

    def check(self, source: Path) -> None:
        """Raise `EnhanceError` if a file of the folder failed."""
        if self.failures:
            failed, good = len(self.failures), len(self.files)
            others = "the others are done" if good else "none is done"
            raise EnhanceError(
                f"{source}: {failed} of {failed + good} files failed, {others} "
                f"(first: {self.failures[0][1]})"
            )


def default_output(path: Path | str) -> Path:
    """``talk.flac`` -> ``talk_enhanced.flac``, folder ``talks`` -> ``talks_enhanced``.

    A suffix that cannot be written becomes ``.wav``. An `EnhanceError` of the root, which has no
    name.
    """
    path = Path(path)
    if is_folder(path):
        whole = resolved(path)  # "." has no name of its own
        if not whole.name:
            raise EnhanceError(f"{path}: has nothing beside it; name the output folder")
        return whole.with_name(whole.name + "_enhanced")
    return path.with_name(f"{path.stem}_enhanced{writable(path).suffix}")


def writable(path: Path) -> Path:
    """The path, with the suffix ``.wav`` where its own cannot be written."""
    return path if path.suffix.lower() in SUFFIXES else path.with_suffix(".wav")


def clean_file(
    source: Path | str,
    target: Path | str,
    enhancer: Model,
    *,
    force: bool = False,
    advance: Callable[[float], None] = lambda seconds: None,
) -> CleanedFile:
    """Enhance one file into another of the same rate, channels and length.

    The encoding is kept where ``target``'s container knows it.

    Parameters
    ----------
    source, target
        Input, and output that is made; the suffix of ``target`` decides its format.
    enhancer
        The model; its own stream is not touched.
    force
        Overwrite ``target``.
    advance
        Called with the seconds of audio that were done since the last call.

    Raises
    ------
    EnhanceError
        If ``source`` is no good audio or ``target`` cannot be written or exists. Nothing is left
        half-written, and an older ``target`` stays as it was.
    """
    source, target = Path(source), Path(target)
    check_target(source, target, force)
    with AudioReader(source) as reader:
        about = reader.info
        stream = AlignedStream(enhancer, about.sample_rate, about.channels)
        with writer_like(about, target, force) as out:
            for block in reader:
                out.write(stream.process(block))
                advance(len(block) / about.sample_rate)
            out.write(stream.flush())
    return CleanedFile(source, target, about.duration, out.clipped)


def writer_like(about: AudioInfo, target: Path, force: bool) -> AbstractContextManager[AudioWriter]:
    """Write a file with all that the input says of itself, as far as its format holds it."""
    return writer(
        target,
        about.sample_rate,
        about.channels,
        subtype=kept_subtype(about, target),
        frames=about.frames,
        tags=about.tags,
        speakers=about.speakers,
        force=force,
    )


def clipped_line(output: Path, clipped: int) -> str:
    """The warning of samples beyond full scale."""
    return f"{output}: warning: {clipped} samples clipped; lower the level of the input"


def run_path(
    source: Path | str,
    target: Path | str | None = None,
    *,
    model: Path | str | Model = "default",
    force: bool = False,
    num_threads: int = 1,
    strength: float | None = None,
    atten_limit: float | None = None,
    engine: Choice = "onnx",
    bandwidth: str | None = None,
    quiet: bool = False,
    verbose: bool = False,
) -> RunResult:
    """Enhance a file, or a folder with all below it; progress and remarks go to standard error.

    Parameters
    ----------
    source
        Audio file, or folder that is searched for files with a suffix of `enhance.audio.write` or
        `enhance.audio.ffmpeg` (names that start with a dot are left out).
    target
        File or, for a folder, folder, where the tree is kept; None takes `default_output`.
        A file may go into an existing folder.
    model
        An `Enhancer`, an `OfflineEnhancer`, or what `enhance.device.offline.open_model` takes.
    force
        Overwrite outputs.
    num_threads
        Threads of the model.
    strength, atten_limit
        See `enhance.device.aligned_stream.wet_share`; None leaves the setting of an `Enhancer`
        as it is.
    engine
        What computes a model that is opened here, see `enhance.Enhancer`.
    bandwidth
        ``"full"`` or ``"16k"``, see `enhance.device.upper_band`; None leaves the setting too.
    quiet
        Say nothing but warnings and failures.
    verbose
        Name the engine, and each file that is done.

    Raises
    ------
    EnhanceError
        If nothing can be done, or at the end if some files of a folder failed: the others are
        done, and each failure has had its line.
    """
    wet_share(1.0 if strength is None else strength, atten_limit)  # refused before any work
    if bandwidth is not None:
        check_bandwidth(bandwidth)
    source = Path(source)
    result = RunResult()
    folder = is_folder(source)
    jobs = _folder_jobs(source, target, result) if folder else [_job(source, target, force)]
    lengths = _measure(jobs, result)
    if not folder and result.failures:
        raise EnhanceError(result.failures[0][1])
    if not isinstance(model, Model):
        model = open_model(model, num_threads, engine)
    enhancer = model.new_stream()  # the caller's keeps its settings
    asked = {"strength": strength, "atten_limit": atten_limit, "bandwidth": bandwidth}
    for name, value in asked.items():
        if value is not None:
            setattr(enhancer, name, value)

    began = time.monotonic()
    with progress.progress_bar(quiet=quiet) as bar:
        say = partial(progress.say, bar)
        if verbose and isinstance(enhancer, Enhancer):
            say(f"{enhancer.path.name}: engine {enhancer.engine}")
        if not quiet:
            _tell_band(enhancer, lengths, say)
        total = math.ceil(sum(about.duration for about in lengths.values()))
        task = bar.add_task("seconds cleaned", total=total, speed="")
        advance = _counter(bar, task)
        for path, output in jobs:
            if path not in lengths:  # its failure is already noted
                continue
            if remark := lengths[path].remark:
                say(f"{path}: warning: {remark}")
            try:
                cleaned = clean_file(path, output, enhancer, force=force, advance=advance)
            except EnhanceError as error:
                if not folder:
                    raise
                result.failures.append((path, str(error)))
                continue
            result.files.append(cleaned)
            if cleaned.clipped:
                say(clipped_line(output, cleaned.clipped))
            if verbose:
                say(f"{path} -> {output}")
        bar.update(task, completed=total)
        if not quiet:
            result.tell(say, time.monotonic() - began)
        for _, line in result.failures:
            say(f"failed: {line}")
    result.check(source)
    return result


def _counter(bar: Progress, task: TaskID) -> Callable[[float], None]:
    """What adds seconds of audio to a task, and tells its speed."""
    began, done = time.monotonic(), 0.0

    def advance(seconds: float) -> None:
        nonlocal done
        done += seconds
        speed = done / max(time.monotonic() - began, 1e-9)
        bar.update(task, completed=int(done), speed=f"{speed:.0f} x real time")

    return advance


def _tell_band(
    enhancer: Model, lengths: Mapping[Path, AudioInfo], say: Callable[[str], None]
) -> None:
    """Say once that a part of the band is lost, by the first file of which it is."""
    if enhancer.bandwidth == "full":
        return
    for path, about in lengths.items():
        if about.sample_rate > enhancer.sample_rate:
            left = f"{1 - enhancer.wet:.0%} of what is" if enhancer.wet < 1 else "nothing"
            say(
                f"{path}: {about.sample_rate} Hz, but {left} above "
                f"{enhancer.sample_rate / 2000:g} kHz is kept (the model works at "
                f"{enhancer.sample_rate / 1000:g} kHz)"
            )
            return


def _job(source: Path, target: Path | str | None, force: bool) -> tuple[Path, Path]:
    """A file and its output."""
    target = default_output(source) if target is None else Path(target)
    if is_folder(target):
        target = writable(target / source.name)
    check_target(source, target, force)
    return source, target


def _folder_jobs(
    source: Path, target: Path | str | None, result: RunResult
) -> list[tuple[Path, Path]]:
    """The audio files of a tree, in a fixed order, and their outputs."""

    def note(error: OSError) -> None:
        path = Path(error.filename)
        result.failures.append((path, str(unreadable(path, error))))

    target = default_output(source) if target is None else Path(target)
    if kind_of(target) is not None and not is_folder(target):
        raise EnhanceError(f"{target}: is a file, the output of a folder is a folder")
    if same_file(target, source):
        raise EnhanceError(f"{target}: is the input folder too; choose another output")
    # An output inside the input is not input.
    inside = resolved(target)
    root = resolved(source)
    found = [path for path in walk(root, _INPUTS, note) if inside not in path.parents]
    if not found and not result.failures:
        raise EnhanceError(f"{source}: holds no audio files ({', '.join(sorted(_INPUTS))})")
    jobs: dict[Path, Path] = {}  # inputs by output
    # First those that keep their name: no video takes it from the recording beside it.
    for path in sorted(found, key=lambda path: writable(path) != path):
        inner = source / path.relative_to(root)
        output = writable(target / path.relative_to(root))
        if output in jobs:
            line = f"{inner}: {jobs[output].name} has the same output, {output}; rename one of them"
            result.failures.append((inner, line))
        else:
            jobs[output] = inner
    return [(inner, output) for output, inner in jobs.items()]


def _measure(jobs: list[tuple[Path, Path]], result: RunResult) -> dict[Path, AudioInfo]:
    lengths = {}
    for path, _ in jobs:
        try:
            lengths[path] = info(path)
        except EnhanceError as error:
            result.failures.append((path, str(error)))
    return lengths


def check_target(source: Path, target: Path, force: bool) -> None:
    if same_file(target, source):
        raise EnhanceError(f"{target}: is the input file too; choose another output")
    if not is_folder(target):
        refuse_existing(target, force=force)
    if not target.suffix:
        raise EnhanceError(f"{target}: is no folder that is there, and no .wav; make the folder")
    output_format(target)  # refuses a suffix that cannot be written, before any work


def kept_subtype(about: AudioInfo, target: Path) -> str | None:
    """The input's encoding, or as fine a one, where a file of the output's name can hold it."""
    container, usual = output_format(target)
    if usual == "OPUS":
        return None
    wishes = [about.subtype] if about.subtype in _KEPT else []
    if about.fine or about.subtype in _FINE:
        wishes.append("PCM_24")
    form = about.sample_rate, about.channels
    return next((wish for wish in wishes if can_write(container, wish, *form)), None)

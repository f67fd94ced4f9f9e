"""What is left of speech in a teacher's embeddings: ``enhance analyze reconstruct``.

Shankar et al. (arXiv 2403.01369) reconstruct speech from embeddings and find it intelligible to a
CRDNN recogniser while its quality suffers, and high frequencies lost where the embeddings are a
student's. Here a small decoder is trained from the features of a corpus to its spectrum, and
measured on the clips of an evaluation set, beside controls that went through the same decoder,
budget and seed.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.analysis.parts.work import Work
from benchmarks.analysis.reconstruct import report, spectrum
from benchmarks.analysis.reconstruct.config import DecoderConfig
from benchmarks.analysis.reconstruct.data import DecoderData
from benchmarks.analysis.reconstruct.measure import ORIGINAL, measure_all, methods, summarize
from benchmarks.analysis.reconstruct.sources import open_teachers
from benchmarks.analysis.reconstruct.training import Trained, train
from benchmarks.figures.clusters import clustering, clusters_of
from benchmarks.quality.evaluate import open_pairs
from benchmarks.recognizers.choose import listen_with, references
from enhance.config.settings import to_dict
from enhance.errors import EnhanceError
from enhance.files import atomic, check_writable, write_json, write_jsonl
from enhance.measure.metrics import metric_versions
from enhance.measure.timing import hardware
from enhance.parallel import torch_threads
from enhance.training.engine.interrupt import Interrupt
from enhance.training.engine.processes import Hardware

log = logging.getLogger("enhance")

CLIPS = "clips.jsonl"
RESULTS = "results.jsonl"
RECORD = "record.json"


def reconstruct(
    teachers: Sequence[str],
    corpus: Path,
    clips: Path,
    output: Path,
    config: DecoderConfig,
    work: Work,
    *,
    layers: Sequence[str] = ("last",),
    controls: bool = True,
    recognizer: str | None = None,
    transcripts: Path | None = None,
    device: str = "cpu",
    resume: bool = False,
) -> dict[str, Any]:
    """Train decoders, measure them, write the report.

    Teachers, layers, controls and device are as `open_teachers` takes them, the recogniser as
    `benchmarks.recognizers.choose.listen_with`. Decoders learn from the speech of a ``corpus`` (and
    its noise, where ``config.noisy``) and are measured on an evaluation set, ``clips``, of which
    the limit of ``work`` takes the first. ``config`` is the same for all, and its seed counts.
    Without ``transcripts`` errors are counted against the recogniser's own text of the original
    audio. ``output`` gets ``record.json``, ``results.jsonl``, ``clips.jsonl``, ``report.md``, a
    picture, and a folder for each decoder; with ``resume`` what is there is gone on with.

    Returns the record, or ``{"stopped": ...}`` after Ctrl-C or SIGTERM. An `EnhanceError` says that
    something named cannot be used, or the folder holds another run.
    """
    begun = (output / "decoders").exists() or (output / CLIPS).exists()
    if begun and not resume:
        raise EnhanceError(
            f"{output}: holds a run already; --resume goes on with it, or choose another folder"
        )
    if resume and not begun:
        raise EnhanceError(f"{output}: no run to go on with")
    listening = listen_with(recognizer)  # before any work: a named one must be there
    if listening.missing:
        log.warning("no word error rate: %s", listening.missing)
    _, set_hash, pairs = open_pairs(clips, limit=work.limit, quiet=work.quiet)
    paths = [(pair.name, Path(pair.clean)) for pair in pairs]
    texts = references(transcripts, paths) if transcripts else None
    found = open_teachers(
        teachers, layers, work.cache, config.seed, controls=controls, device=device
    )
    hearing = listening.recognizer
    with torch_threads(config.threads), Interrupt() as interrupt:
        data = DecoderData.choose(corpus, config, work.quiet)
        check_writable(output / RECORD)
        (output / "decoders").mkdir(exist_ok=True)  # stopped early, it has begun, too
        place = Hardware(device.partition(":")[0])
        trained: list[Trained] = []
        for source in found:
            folder = output / "decoders" / slug(source.name)
            one = train(config, source, data, folder, interrupt, hardware=place, quiet=work.quiet)
            if one is None:
                return _stopped(f"decoder from {source.name}")
            trained.append(one)
        table = methods(trained, noisy=config.noisy, recognizer=hearing is not None)
        rows = measure_all(table, pairs, listening, config, output / CLIPS, interrupt,
                           quiet=work.quiet)  # fmt: skip
        if rows is None:
            return _stopped("measuring")
        results = summarize(table, rows, listening, texts)
        record = {
            "config": to_dict(config),
            "corpus": str(corpus),
            "data": data.describe(),
            "set": str(clips),
            "set_hash": set_hash,
            "clips": len(pairs),
            "input": "noisy" if config.noisy else "clean",
            "interval": f"95 %, {clustering(clusters_of([pair.labels for pair in pairs]))}; "
            "WER: t over clips",
            "decoders": [one.about for one in trained],
            "recognizer": {
                "name": hearing and hearing.name,
                "missing": listening.missing or None,
                "errors": listening.errors,
                "normalisation": hearing and listening.normalisation,
                "reference": hearing and str(transcripts or f"its own text of the {ORIGINAL}"),
            },
            "griffin_lim_iterations": spectrum.ITERATIONS,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "hardware": {**hardware(), "metric_versions": metric_versions()},
        }
        shared = {k: record[k] for k in ("set", "set_hash", "clips", "input", "interval")}
        write_jsonl(output / RESULTS, [row | shared for row in results])
        write_json(output / RECORD, record)
        shown = report.picture(
            output / "spectrograms.png", trained, pairs, rows, noisy=config.noisy
        )
        with atomic(output / "report.md") as temporary:
            temporary.write_text(report.text(record, results, shown), "utf-8")
        return record | {"results": results}


def slug(name: str) -> str:
    """A name that can be a folder's."""
    return "-".join("".join(c if c.isalnum() or c in "._" else " " for c in name).split())


def _stopped(where: str) -> dict[str, Any]:
    log.warning("stopped: %s; --resume goes on", where)
    return {"stopped": where}

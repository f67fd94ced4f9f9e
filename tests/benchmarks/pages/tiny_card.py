"""A model of seconds, trained, exported and measured, and all that its card is made of."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import tiny_training as tiny
from tiny_kinds import few_kinds

from benchmarks.guard.run import guard
from benchmarks.latency.bench import bench
from benchmarks.pages.card import write_card
from benchmarks.quality.evaluate import evaluate
from enhance.files import read_jsonl, write_jsonl
from enhance.training.engine.engine import seed_everything
from enhance.training.loop import fit
from enhance.training.objective import Enhancement
from export.certificate import Bounds
from export.stream import export_model

LICENCES = {"speech": "CC0-1.0", "noise": "CC BY (somebody)"}


@dataclass
class Made:
    """A trained, exported and measured model."""

    root: Path

    @property
    def model(self) -> Path:
        return self.root / "shipped/m.int8.onnx"

    @property
    def certificate(self) -> Path:
        return self.model.with_suffix(".certificate.json")

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def report(self) -> Path:
        return self.root / "report"

    @property
    def results(self) -> list[dict[str, Any]]:
        return read_jsonl(self.report / "results.jsonl")

    def rows(self, kind: str) -> list[dict[str, Any]]:
        return [row for row in self.results if row["kind"] == kind]

    def card(self, **options: Any) -> str:
        options = {"out": self.root / "card.md", "force": True, **options}
        return write_card(self.model, self.run, [self.report], **options).read_text("utf-8")


def write_pairs(folder: Path, seconds: float) -> Path:
    """Three voices in noise at -5 dB."""
    for index in range(3):
        t = np.arange(round(seconds * 16000)) / 16000
        voice = sum(np.sin(2 * np.pi * (100 + 20 * index) * k * t + k) / k for k in range(1, 15))
        clean = 0.05 * voice * np.clip(np.sin(2 * np.pi * 2.3 * t), 0.02, None)
        rough = np.random.default_rng(index).standard_normal(t.size)
        rough *= np.sqrt(np.sum(clean**2) / np.sum(rough**2)) * 10 ** (5 / 20)
        for part, wave in (("clean", clean), ("noisy", clean + rough)):
            (folder / part).mkdir(parents=True, exist_ok=True)
            soundfile.write(folder / part / f"{index}.wav", wave, 16000, subtype="FLOAT")
    return folder


def make(root: Path) -> Made:
    """Train, export and measure it; seconds."""
    made = Made(root)
    corpus = tiny.make_clips(made.root / "corpus")
    with (corpus / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "seconds", "kind", "source", "language", "licence"])
        for kind, licence in LICENCES.items():
            for path in sorted((corpus / kind).iterdir()):
                name = path.relative_to(corpus).as_posix()
                language = "nl" if kind == "speech" else "none"
                writer.writerow([name, "1.5", kind, f"our-{kind}", language, licence])
    settings = tiny.config(corpus)
    seed_everything(settings.seed)
    with tiny.little_settling():
        fit(settings, Enhancement(settings.loss), made.run, quiet=True)
    loose = Bounds(si_sdr_db=9.0, pesq=3.0, snr_db=0.0)
    out = made.root / "shipped/m.onnx"
    # A certificate needs 10 s; the guard takes PESQ of all its cases, which is slow.
    clips = write_pairs(made.root / "pairs", 3.5)
    export_model(made.run, out, int8=True, clips=clips, bounds=loose, quiet=True)
    clips = write_pairs(made.root / "short/pairs", 1.2)
    evaluate(made.model, clips, -5, made.report, 1, quiet=True)
    with few_kinds():
        guard(made.model, clips, made.report, limit=4, jobs=1, quiet=True)
    bench([made.model], 0.1, made.report, repeats=1, quiet=True)
    return made


def change_rows(made: Made, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change each row of the results in place; a row for which ``change`` is False goes."""
    rows = [row for row in made.results if change(row) is not False]
    write_jsonl(made.report / "results.jsonl", rows)

"""A study that takes seconds: four generated clips, four steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import tiny_training as tiny
import yaml

from benchmarks.study import compare
from benchmarks.study.compare import Comparison
from enhance.config.settings import to_dict
from enhance.files import read_jsonl

RUNS: dict[str, Any] = {
    "plain": {},
    "fast": {"training.learning_rate": 0.05, "why": "is faster better"},
}


class Place:
    """Clips, an evaluation set and a study file in one folder."""

    def __init__(self, folder: Path, clips: Path, evaluation: Path) -> None:
        self.folder, self.clips, self.evaluation = folder, clips, evaluation
        self.out = folder / "out"
        self.file = folder / "study.yaml"

    def study(
        self, runs: Any = None, seeds: tuple[int, ...] = (0,), steps: int = 4, **more: Any
    ) -> Path:
        """Write the study file; training of 4 steps takes a fraction of a second."""
        every = max(2, steps // 15)
        base = to_dict(
            tiny.config(self.clips, steps=steps, validate_every=0, checkpoint_every=every)
        )
        own = RUNS if runs is None else runs
        value = {"base": base, "seeds": list(seeds), "runs": own, **more}
        self.file.write_text(yaml.safe_dump(value, sort_keys=False), "utf-8")
        return self.file

    def run(self, out: Path | None = None, **options: Any) -> Comparison:
        """`compare` on the set, quietly."""
        options = {"clips": self.evaluation, "seconds": 0.05, "quiet": True, **options}
        return compare.compare(self.file, out or self.out, **options)

    def report(self) -> str:
        """The page."""
        return (self.out / "RESULTS.md").read_text("utf-8")

    def states(self) -> dict[str, str]:
        """Where each run stands."""
        return {row["run"]: row["state"] for row in self.rows("trial")}

    def rows(self, kind: str) -> list[dict[str, Any]]:
        """Rows of one kind of the results."""
        found = read_jsonl(self.out / "results.jsonl")
        return [row for row in found if row["kind"] == kind]


def make_material(folder: Path) -> tuple[Path, Path]:
    """Clips to train on, and an evaluation set with a label."""
    rng = np.random.default_rng(3)
    time = np.arange(19200) / 16000
    lines = ["path,speech_group"]
    for i in range(4):
        voice = sum(np.sin(2 * np.pi * (90 + 20 * i) * k * time + k * k) / k for k in range(1, 30))
        clean = 0.05 * np.clip(np.sin(2 * np.pi * 3.7 * time + i), 0, None) * voice
        noise = rng.standard_normal(len(time))
        noise *= np.sqrt(np.sum(clean**2) / np.sum(noise**2)) * 10 ** (5 / 20)
        for part, wave in (("clean", clean), ("noisy", clean + noise)):
            path = folder / "dev" / part / f"{i}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, wave, 16000, subtype="FLOAT")
            lines.append(f"{part}/{i}.wav,{'odd' if i % 2 else 'even'}")
    (folder / "dev" / "manifest.csv").write_text("\n".join(lines) + "\n")
    return tiny.make_clips(folder / "clips"), folder / "dev"

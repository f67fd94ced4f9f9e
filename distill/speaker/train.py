"""Training of a speaker encoder: `enhance pretrain-speaker --objective aam|dino`.

One loop for both objectives. Like `distill.pretrain_ssl`, a limit in minutes only decides when the
last quarter begins, so that a run can be repeated exactly by naming the number of steps it came
to; stopped at any step and resumed, it writes the same history and the same weights.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill.backbones import ecapa_model
from distill.speaker import card, score
from distill.speaker.aam import Aam
from distill.speaker.config import SpeakerConfig
from distill.speaker.data import Crops, SpeakerData
from distill.speaker.dino import Dino
from enhance.errors import EnhanceError
from enhance.files import write_json
from enhance.progress import progress_bar
from enhance.training.history import HISTORY, cut
from enhance.training.interrupt import Interrupt
from enhance.training.state import load_exactly, load_tensors, save_tensors

log = logging.getLogger("enhance")

FORMAT = "enhance-speaker-1"
_FREE = ("minutes", "checkpoint_seconds")  # may differ in a resumed run
_COLLAPSED = 0.05
"""Entropy of the teacher's mean output, as a share of ln K, under which it says one thing only."""
_UNIFORM = 0.99
"""Entropy of single outputs, as a share of ln K, over which the teacher says nothing."""


@dataclass
class State:
    """Where a run stands."""

    step: int = 0
    """Finished steps."""
    total: int | None = None
    """Steps of the run, once known."""
    seconds: float = 0.0
    """Training time."""
    audio: float = 0.0
    """Seconds of audio heard, all crops counted."""
    sums: dict[str, float] = field(default_factory=dict)
    """What was added up since the last line of history."""


def train(
    config: SpeakerConfig,
    corpus: Path | str,
    output: Path | str,
    *,
    evaluation: Path | str | None = None,
    resume: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Train a speaker encoder and write its folder.

    Parameters
    ----------
    config
        What to train and how long.
    corpus
        Folder with speech and noise, as `enhance.data.dataset.load_clips` reads it; `aam` needs
        the column `speaker`.
    output
        Model folder: ``config.json``, ``model.safetensors``, ``preprocessor_config.json``,
        ``record.json``, ``history.jsonl``, ``README.md``; what a stopped run needs to go on is
        in its subfolder ``state``.
    evaluation
        Folder with speech of other, known speakers, whose EER is measured at the end; None
        leaves that out.
    resume
        Go on from ``output/state``.
    quiet
        No progress bar.

    Returns
    -------
    dict
        The record (as in ``record.json``), or ``{"stopped": ...}`` after Ctrl-C or SIGTERM.

    Raises
    ------
    EnhanceError
        If a folder cannot be used, a speaker stands on both sides, or the loss is not finite.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    try:
        with Interrupt() as interrupt:
            run = Training(config, Path(corpus), Path(output), evaluation, resume, quiet)
            return run.run(interrupt)
    finally:
        torch.set_num_threads(threads)


class Training:
    """One run; see `train`."""

    def __init__(
        self,
        config: SpeakerConfig,
        corpus: Path,
        output: Path,
        evaluation: Path | str | None,
        resume: bool,
        quiet: bool,
    ) -> None:
        self.config, self.output, self.quiet = config, output, quiet
        self.file = output / "state" / "trainer.safetensors"
        self.plain = json.loads(json.dumps(asdict(config)))
        if self.file.exists() and not resume:
            raise EnhanceError(
                f"{output}: holds a run already; --resume goes on with it, or choose another folder"
            )
        if resume and not self.file.exists():
            raise EnhanceError(f"{output}: no run to go on with ({self.file} is missing)")
        self.state = State()
        tensors: dict[str, Tensor] = {}
        if resume:
            tensors, header = load_tensors(self.file, FORMAT)
            begun = json.loads(json.dumps(asdict(SpeakerConfig()))) | header["config"]
            differ = [k for k in self.plain if k not in _FREE and begun[k] != self.plain[k]]
            if differ:
                raise EnhanceError(
                    f"{output}: was begun with another {', '.join(differ)} (such as "
                    f"{begun[differ[0]]}); give the same or choose another folder"
                )
            self.state = State(**header["state"])
        self.data = SpeakerData.open(corpus, config, quiet)
        self.evaluation = None
        if evaluation is not None:
            self.evaluation = score.open_evaluation(Path(evaluation), config.source, quiet)
            score.check_unseen(self.data.train.clips, self.evaluation.clips)
        kind = {"aam": Aam, "dino": Dino}[config.objective]
        self.learner: Aam | Dino = kind(config, self.data.speakers)
        self.crops = Crops(self.data, config, self.learner.crops)
        self.named = [(n, p) for n, p in self.learner.named_parameters() if p.requires_grad]
        groups = [
            {
                "params": [p for _, p in self.named if p.ndim > 1],
                "weight_decay": config.weight_decay,
            },
            {"params": [p for _, p in self.named if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=config.learning_rate)
        if resume:
            load_exactly(self.learner, _below(tensors, "learner."), str(self.file))
            for name, parameter in self.named:
                slots = _below(tensors, f"optimizer.{name}.")
                self.optimizer.state[parameter].update({k: t.clone() for k, t in slots.items()})
        cut(output / HISTORY, self.state.step)

    def run(self, interrupt: Interrupt) -> dict[str, Any]:
        """Do what is left."""
        if not self._train(interrupt):
            self._save()
            log.warning("stopped at step %d; --resume goes on", self.state.step)
            return {"stopped": f"step {self.state.step}"}
        self._save()
        encoder = self.learner.encoder.eval()
        record: dict[str, Any] = {
            "config": self.plain,
            "data": self.data.describe(),
            "speakers": self.data.speakers,
            "parameters": sum(p.numel() for p in encoder.parameters()),
            "steps": self.state.step,
            "seconds": round(self.state.seconds),
            "audio_seconds": round(self.state.audio),
        }
        if self.data.held is not None:
            record["held_back"] = self._measure_held()
        if self.evaluation is not None:
            untrained = self.config.sizes.build(self.config.seed)
            record["verification"] = score.compare(
                encoder, untrained, self.data.train, self.evaluation
            )
        ecapa_model.save(encoder, self.output)
        write_json(self.output / "record.json", record)
        card.write(self.output)
        return record

    def _train(self, interrupt: Interrupt) -> bool:
        """Train to the end (True) or until interrupted (False)."""
        config, state, learner = self.config, self.state, self.learner
        limit = 60 * config.minutes
        if state.total is None and config.steps:
            state.total = config.steps
        parameters = [p for _, p in self.named]
        saved = clock = time.monotonic()
        self.output.mkdir(parents=True, exist_ok=True)
        with (
            progress_bar(quiet=self.quiet) as bar,
            (self.output / HISTORY).open("a", encoding="utf-8") as history,
        ):
            task = bar.add_task(config.objective, total=state.total or limit, speed="")
            learner.train()
            while state.total is None or state.step < state.total:
                if interrupt.caught:
                    return False
                rate = config.rate(state.step, state.total)
                for group in self.optimizer.param_groups:
                    group["lr"] = rate
                views, speakers = self.crops.batch(state.step)
                loss, told = learner(
                    [torch.from_numpy(v) for v in views], torch.from_numpy(speakers), state.step
                )
                if not torch.isfinite(loss):
                    raise EnhanceError(
                        f"step {state.step + 1}: the loss is {loss.item()} (seed {config.seed}); "
                        "lower the learning rate"
                    )
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()
                learner.before_update(state.step)
                torch.nn.utils.clip_grad_norm_(parameters, config.clip_norm)
                self.optimizer.step()
                learner.after_step(state.step, state.total)
                state.step += 1
                state.audio += self.crops.seconds
                for key, value in {**told, "count": 1}.items():
                    state.sums[key] = state.sums.get(key, 0.0) + value
                self._write_history(history)
                now = time.monotonic()
                state.seconds += now - clock
                clock = now
                if limit and state.seconds >= 0.75 * limit:
                    total = max(4 * state.step // 3, state.step + 1)
                    state.total = total if state.total is None else min(total, state.total)
                    limit = 0.0
                known = state.total is not None
                bar.update(
                    task,
                    total=state.total if known else limit,
                    completed=state.step if known else state.seconds,
                    speed=f"{state.audio / state.seconds:.0f} audio-s/s",
                )
                if now - saved > config.checkpoint_seconds:
                    self._save()
                    saved = now
        return True

    def _write_history(self, file: Any) -> None:
        config, state = self.config, self.state
        rows: list[dict[str, Any]] = []
        if state.step % config.log_every == 0:
            count = state.sums.pop("count")
            means = {key: value / count for key, value in state.sums.items()}
            rows.append({"type": "train", "step": state.step, **means})
            state.sums = {}
            if means.get("mean_entropy", 1.0) < _COLLAPSED:
                log.warning("step %d: the teacher gives one output to every clip", state.step)
            if means.get("teacher_entropy", 0.0) > _UNIFORM and state.step > config.warmup_steps:
                log.warning("step %d: the teacher's outputs are all but uniform", state.step)
        if state.step % config.validate_every == 0 and self.data.held is not None:
            rows.append({"type": "validation", "step": state.step, **self._measure_held()})
        for row in rows:
            file.write(json.dumps(row) + "\n")
            file.flush()
            log.info("%s (%.0f s)", json.dumps(row), state.seconds)

    def _measure_held(self) -> dict[str, Any]:
        assert self.data.held is not None
        return score.measure(self.data.held, score.of_encoder(self.learner.encoder)).to_dict()

    def _save(self) -> None:
        tensors = {f"learner.{n}": t for n, t in self.learner.state_dict().items()}
        for name, parameter in self.named:
            for slot, value in self.optimizer.state[parameter].items():
                tensors[f"optimizer.{name}.{slot}"] = torch.as_tensor(value)
        header = {"config": self.plain, "state": asdict(self.state)}
        save_tensors(self.file, tensors, header, FORMAT)


def _below(tensors: dict[str, Tensor], start: str) -> dict[str, Tensor]:
    return {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}

"""Pre-training of a small self-supervised model on unlabelled speech: `enhance pretrain-ssl`.

The loop of all families: steps, checkpoints, exact resumption, history, record. It knows no family;
what is learnt and how it is measured is behind `distill.families.Family`. The learning rate warms
up, stays, and falls to zero over the last quarter of the steps. A limit in minutes only decides
when that quarter begins, so that the run can be repeated exactly by naming the number of steps it
came to.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill import families, phone_probe, ssl_card
from distill.crops import Crop, epochs
from distill.families import Losses, Work
from distill.families.transformer import KINDS, parameter_count
from distill.pretrain_config import PretrainConfig, rate, total_from
from distill.ssl_data import SslData
from enhance.errors import EnhanceError
from enhance.files import read_jsonl, write_json
from enhance.progress import progress_bar
from enhance.settings import merge
from enhance.training.history import cut
from enhance.training.interrupt import Interrupt
from enhance.training.state import load_exactly, load_tensors, save_tensors

log = logging.getLogger("enhance")

FORMAT = "enhance-ssl-2"
_FREE = ("minutes", "checkpoint_seconds")  # the clock decides only where an iteration ends


@dataclass
class State:
    """Where a run stands."""

    iteration: int = 0
    prepared: bool = False
    """Whether the family made ready for this iteration (units, head start)."""
    step: int = 0
    """Finished steps of this iteration."""
    total: int | None = None
    """Steps of this iteration, once known."""
    seconds: float = 0.0
    """Training time of this iteration."""
    before: int = 0
    """Steps of the iterations before."""
    sums: dict[str, float] = field(default_factory=dict)
    """Figures, right answers, questions and steps since the last line of history."""
    finished: list[dict[str, Any]] = field(default_factory=list)
    """Record of each finished iteration."""


def pretrain(
    config: PretrainConfig,
    corpus: Path | str,
    output: Path | str,
    *,
    resume: bool = False,
    probe: Path | str | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Pre-train a model and write its folder.

    Parameters
    ----------
    config
        What to train and how long; its class decides the family.
    corpus
        Folder with speech and noise, as `enhance.data.dataset.load_clips` reads it.
    output
        Model folder: ``config.json``, ``model.safetensors``, ``preprocessor_config.json``,
        ``record.json``, ``history.jsonl``, ``README.md``; what a stopped run needs to go on is
        in its subfolder ``state``.
    resume
        Go on from ``output/state``; repeats an unstopped run exactly when limited by steps.
    probe
        Folder with phone alignments for `distill.phone_probe.probe`, measured at the end; None
        leaves the probe out, and the card says so.
    quiet
        No progress bar.

    Returns
    -------
    dict
        The record (as in ``record.json``), or ``{"stopped": ...}`` after Ctrl-C or SIGTERM.

    Raises
    ------
    EnhanceError
        If the corpus or the folder cannot be used, or the loss is not finite.
    """
    if probe and config.family not in KINDS:
        raise EnhanceError(f"--probe: knows the frames of {', '.join(KINDS)} only; leave it out")
    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    try:
        with Interrupt() as interrupt:
            run = Pretraining(config, Path(corpus), Path(output), resume, quiet)
            record = run.run(interrupt)
        if "stopped" not in record:
            found = phone_probe.probe(Path(output), Path(probe), quiet=quiet) if probe else None
            ssl_card.write(Path(output), found)
        return record
    finally:
        torch.set_num_threads(threads)


def begun(output: Path | str) -> dict[str, Any]:
    """Configuration of the run that stands in a folder.

    Raises
    ------
    EnhanceError
        If there is none.
    """
    file = _state_file(Path(output))
    if not file.exists():
        raise EnhanceError(f"{output}: no run to go on with ({file} is missing)")
    config: dict[str, Any] = load_tensors(file, FORMAT, tensors=False)[1]["config"]
    return config


class Pretraining:
    """One run; see `pretrain`."""

    def __init__(
        self, config: PretrainConfig, corpus: Path, output: Path, resume: bool, quiet: bool
    ) -> None:
        self.config, self.output, self.quiet = config, output, quiet
        self.file = _state_file(output)
        self.plain = json.loads(json.dumps(asdict(config)))
        if self.file.exists() and not resume:
            raise EnhanceError(
                f"{output}: holds a run already; --resume goes on with it, or choose another folder"
            )
        self.state = State()
        tensors: dict[str, Tensor] = {}
        header: dict[str, Any] = {}
        if resume:
            begun(output)
            tensors, header = load_tensors(self.file, FORMAT)
            # A field that is newer than the run has the default, which does what the run did.
            old = merge(json.loads(json.dumps(asdict(type(config)()))), header["config"])
            differ = [k for k in self.plain if k not in _FREE and old.get(k) != self.plain[k]]
            if differ:
                raise EnhanceError(
                    f"{output}: was begun with another {', '.join(differ)} (such as "
                    f"{old.get(differ[0])}); give the same or choose another folder"
                )
            self.state = State(**header["state"])
        self.data = SslData.open(corpus, config.held_back, config.seed, quiet)
        self.heard = _digest(self.data)
        if header and header["data"] != self.heard:
            raise EnhanceError(
                f"{output}: was begun with other recordings than those of {corpus}; give the same "
                "corpus or choose another folder"
            )
        self.family = families.build(config)
        if tensors:
            load_exactly(self.family.model, _below(tensors, "model."), f"{self.file}: model")
        self.resumed = tensors
        cut(output / "history.jsonl", self.state.before + self.state.step)

    def run(self, interrupt: Interrupt) -> dict[str, Any]:
        """Do what is left."""
        while self.state.iteration < self.config.rounds:
            unready = self._prepare(interrupt)
            if unready:
                how = "--resume makes it again" if self.file.exists() else "nothing to resume yet"
                log.warning("stopped while making %s; %s", unready, how)
                return {"stopped": unready}
            optimizer = self._optimizer()
            if not self._train(optimizer, interrupt):
                self._save(optimizer)
                where = f"iteration {self.state.iteration + 1}, step {self.state.step}"
                log.warning("stopped at %s; --resume goes on", where)
                return {"stopped": where}
            self._finish_iteration()
        self.family.save(self.output)
        record = {
            "config": self.plain,
            "data": self.data.describe(),
            "parameters": parameter_count(self.family.model),
            "iterations": self.state.finished,
            "curve": [
                {k: v for k, v in row.items() if k != "type"}
                for row in read_jsonl(self.output / "history.jsonl")
                if row["type"] == "validation"
            ],
        }
        write_json(self.output / "record.json", record)
        return record

    def _prepare(self, interrupt: Interrupt) -> str:
        """Let the family make ready; what was being made if interrupted, else ''."""
        state = self.state
        work = Work(
            iteration=state.iteration,
            data=self.data,
            state=self.file.parent,
            reuse=bool(self.resumed),
            begun=state.prepared,
            batches=lambda: self._batches(),
            interrupt=interrupt,
            quiet=self.quiet,
        )
        unready = self.family.prepare(work)
        state.prepared = not unready
        return unready

    def _optimizer(self) -> torch.optim.AdamW:
        named, config = self._named(), self.config
        groups = [
            {"params": [p for _, p in named if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for _, p in named if p.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), eps=1e-6)
        if self.resumed and self.state.step:
            for name, module in self.family.learnt().items():
                tensors = _below(self.resumed, f"{name}.")
                load_exactly(module, tensors, f"{self.file}: {name}")
            for name, parameter in named:
                slots = _below(self.resumed, f"optimizer.{name}.")
                optimizer.state[parameter].update({k: t.clone() for k, t in slots.items()})
        self.resumed = {}
        return optimizer

    def _named(self) -> list[tuple[str, torch.nn.Parameter]]:
        modules = self.family.learnt().items()
        return [pair for name, module in modules for pair in module.named_parameters(name)]

    def _batches(self) -> Iterator[tuple[list[Crop], Any]]:
        config, state = self.config, self.state
        seed = [config.seed, 1, state.iteration]
        step = state.step
        frames = (round(config.batch_seconds * 50), round(config.crop_seconds * 50))
        for _, crops in epochs(self.data.speech, self.data.train, *frames, seed, step):
            rng = np.random.default_rng(
                np.random.SeedSequence([config.seed, 2, state.iteration, step])
            )
            yield crops, self.family.batch(crops, self.data, rng)
            step += 1

    def _losses(self, batch: Any) -> Losses:
        """Losses of the next step, with torch's own randomness a function of the step alone."""
        key = [self.config.seed, 4, self.state.iteration, self.state.step]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]))
            return self.family.losses(batch, self.state.step)

    def _train(self, optimizer: torch.optim.AdamW, interrupt: Interrupt) -> bool:
        """Train this iteration to its end (True) or until interrupted (False)."""
        config, state, modules = self.config, self.state, self.family.learnt().values()
        limit = 60 * config.minutes * config.share(state.iteration)
        if state.total is None:
            state.total = config.steps_of(state.iteration)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        saved = clock = time.monotonic()
        speed = 0.0
        self.output.mkdir(parents=True, exist_ok=True)
        with (
            progress_bar(quiet=self.quiet) as bar,
            (self.output / "history.jsonl").open("a", encoding="utf-8") as history,
        ):
            task = bar.add_task(
                f"iteration {state.iteration + 1}", total=state.total or limit, speed=""
            )
            for module in modules:
                module.train()
            for crops, batch in self._batches():
                if state.total is not None and state.step >= state.total:
                    break
                if interrupt.caught:
                    return False
                now_rate = rate(config, state.step, state.total)
                for group in optimizer.param_groups:
                    group["lr"] = now_rate
                found = self._losses(batch)
                if not torch.isfinite(found.loss):
                    names = ", ".join(self.data.speech.clips[c.clip].path.name for c in crops[:3])
                    raise EnhanceError(
                        f"iteration {state.iteration + 1}, step {state.step + 1}: the loss is "
                        f"{found.loss.item()} (seed {config.seed}, files {names}, ...); lower the "
                        "learning rate"
                    )
                optimizer.zero_grad(set_to_none=True)
                found.loss.backward()
                torch.nn.utils.clip_grad_norm_(parameters, config.clip_norm)
                optimizer.step()
                state.step += 1
                for key, value in _figures(found).items():
                    state.sums[key] = state.sums.get(key, 0.0) + value
                self._write_history(history)
                now = time.monotonic()
                state.seconds += now - clock
                heard = len(crops) * crops[0].frames / 50 / (now - clock)
                speed = 0.95 * speed + 0.05 * heard if speed else heard
                clock = now
                if limit and state.seconds >= 0.75 * limit:
                    total = total_from(state.step)
                    state.total = total if state.total is None else min(total, state.total)
                    limit = 0.0
                known = state.total is not None
                bar.update(
                    task,
                    total=state.total if known else limit,
                    completed=state.step if known else state.seconds,
                    speed=f"{speed:.0f} audio-s/s",
                )
                if now - saved > config.checkpoint_seconds:
                    self._save(optimizer)
                    saved = now
        for module in modules:
            module.eval()
        return True

    def _write_history(self, file: Any) -> None:
        config, state = self.config, self.state
        place = {"iteration": state.iteration + 1, "step": state.before + state.step}
        rows = []
        if state.step % config.log_every == 0:
            sums = dict(state.sums)
            steps, correct, counted = (sums.pop(k) for k in ("steps", "correct", "counted"))
            means = {name: value / steps for name, value in sums.items()}
            rows.append({"type": "train", **place, **means, "accuracy": correct / counted})
            state.sums = {}
        if state.step % config.validate_every == 0 and self.data.held:
            rows.append({"type": "validation", **place, **self.family.validate(self.data)})
        for row in rows:
            file.write(json.dumps(row) + "\n")
            file.flush()
            log.info("%s (%.0f s)", json.dumps(row), state.seconds)

    def _finish_iteration(self) -> None:
        state = self.state
        row = {"steps": state.step, "seconds": round(state.seconds)}
        row = {**self.family.report(self.data), **row}
        log.info("iteration %d: %s", state.iteration + 1, json.dumps(row))
        self.state = State(
            iteration=state.iteration + 1,
            before=state.before + state.step,
            finished=[*state.finished, row],
        )
        self._save(None)

    def _save(self, optimizer: torch.optim.AdamW | None) -> None:
        tensors = {
            f"{name}.{n}": t
            for name, module in self.family.learnt().items()
            for n, t in module.state_dict().items()
        }
        if optimizer is not None:
            for name, parameter in self._named():
                for slot, value in optimizer.state[parameter].items():
                    tensors[f"optimizer.{name}.{slot}"] = torch.as_tensor(value)
        header = {"config": self.plain, "state": asdict(self.state), "data": self.heard}
        save_tensors(self.file, tensors, header, FORMAT)


def _figures(found: Losses) -> dict[str, float]:
    counts = {"correct": found.correct, "counted": found.counted, "steps": 1}
    return {**found.means, **counts}


def _state_file(output: Path) -> Path:
    return output / "state" / "trainer.safetensors"


def _digest(data: SslData) -> str:
    """What identifies the recordings: names and lengths, in order."""
    stores = [store for store in (data.speech, data.noise) if store is not None]
    rows = [[c.path.name, s.length(i)] for s in stores for i, c in enumerate(s.clips)]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _below(tensors: dict[str, Tensor], start: str) -> dict[str, Tensor]:
    return {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}

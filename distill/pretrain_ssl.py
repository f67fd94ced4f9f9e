"""Pre-training of a small WavLM on unlabelled speech: `enhance pretrain-ssl --family wavlm`.

HuBERT's recipe (Hsu et al. 2021) with WavLM's mixing (Chen et al. 2022): k-means units of MFCC,
masked prediction of them; then k-means units of an inner layer of the model so made, and again.
The second iteration goes on from the first one's weights (the papers start anew, with days of
computing time). The learning rate warms up, stays, and falls to zero over the last quarter of the
steps. A limit in minutes only decides when that quarter begins, so that the run can be repeated
exactly by naming the number of steps it came to.
"""

from __future__ import annotations

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

from distill import mini_wavlm, phone_probe, ssl_card, units
from distill.crops import Crop, disturb, epochs, normalize
from distill.masked_accuracy import evaluate
from distill.mfcc import mfcc_with_deltas
from distill.objectives import MaskedUnitLoss, span_mask
from distill.pretrain_config import PretrainConfig, rate, total_from
from distill.ssl_data import SslData
from distill.units import Units
from distill.warm_up import warm_up
from enhance.errors import EnhanceError
from enhance.files import write_json
from enhance.progress import progress_bar
from enhance.training.history import cut
from enhance.training.interrupt import Interrupt
from enhance.training.state import load_exactly, load_tensors, save_tensors

log = logging.getLogger("enhance")

FORMAT = "enhance-ssl-1"


@dataclass
class State:
    """Where a run stands."""

    iteration: int = 0
    warm: bool = False
    """Whether the front end has had its head start."""
    step: int = 0
    """Finished steps of this iteration."""
    total: int | None = None
    """Steps of this iteration, once known."""
    seconds: float = 0.0
    """Training time of this iteration."""
    before: int = 0
    """Steps of the iterations before."""
    sums: list[float] = field(default_factory=lambda: [0.0, 0, 0, 0])
    """Loss, hits, masked frames and steps since the last line of history."""
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
        What to train and how long.
    corpus
        Folder with speech and noise, as `enhance.data.dataset.load_clips` reads it.
    output
        Model folder: ``config.json``, ``model.safetensors`` (fp16), ``preprocessor_config.json``,
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


class Pretraining:
    """One run; see `pretrain`."""

    def __init__(
        self, config: PretrainConfig, corpus: Path, output: Path, resume: bool, quiet: bool
    ) -> None:
        self.config, self.output, self.quiet = config, output, quiet
        self.file = output / "state" / "trainer.safetensors"
        plain = json.loads(json.dumps(asdict(config)))
        if self.file.exists() and not resume:
            raise EnhanceError(
                f"{output}: holds a run already; --resume goes on with it, or choose another folder"
            )
        if resume and not self.file.exists():
            raise EnhanceError(f"{output}: no run to go on with ({self.file} is missing)")
        self.plain = plain
        self.state = State()
        tensors: dict[str, Tensor] = {}
        if resume:
            tensors, header = load_tensors(self.file, FORMAT)
            # The clock may be given another limit: it decides only where an iteration ends.
            free = ("minutes", "checkpoint_seconds")
            # A field that is newer than the run has the default, which does what the run did.
            begun = json.loads(json.dumps(asdict(PretrainConfig()))) | header["config"]
            differ = [k for k in plain if k not in free and begun[k] != plain[k]]
            if differ:
                raise EnhanceError(
                    f"{output}: was begun with another {', '.join(differ)} (such as "
                    f"{begun[differ[0]]}); give the same or choose another folder"
                )
            self.state = State(**header["state"])
        self.data = SslData.open(corpus, config.held_back, config.seed, quiet)
        self.model = config.architecture.build(config.seed)
        if tensors:
            load_exactly(self.model, _below(tensors, "model."), f"{self.file}: model")
        self.resumed = tensors
        cut(output / "history.jsonl", self.state.before + self.state.step)

    def run(self, interrupt: Interrupt) -> dict[str, Any]:
        """Do what is left."""
        while self.state.iteration < self.config.iterations:
            targets = self._units(interrupt)
            if targets is None:
                where = f"the units of iteration {self.state.iteration + 1}"
                how = "--resume makes them again" if self.file.exists() else "nothing to resume yet"
                log.warning("stopped while making %s; %s", where, how)
                return {"stopped": where}
            if not self._warm_front_end(targets, interrupt):
                log.warning("stopped while the front end warmed up; nothing to resume yet")
                return {"stopped": "the warm-up of the front end"}
            head, optimizer = self._learner(targets.count)
            if not self._train(targets, head, optimizer, interrupt):
                self._save(head, optimizer)
                where = f"iteration {self.state.iteration + 1}, step {self.state.step}"
                log.warning("stopped at %s; --resume goes on", where)
                return {"stopped": where}
            self._finish_iteration(targets, head)
        mini_wavlm.save(self.model, self.output)
        record = {
            "config": self.plain,
            "data": self.data.describe(),
            "parameters": mini_wavlm.parameter_count(self.model),
            "iterations": self.state.finished,
        }
        write_json(self.output / "record.json", record)
        return record

    def _units(self, interrupt: Interrupt) -> Units | None:
        """Units of this iteration, or None if interrupted."""
        i = self.state.iteration
        path = self.output / "state" / f"units-{i + 1}.safetensors"
        if path.exists() and self.resumed:
            return Units.load(path)
        config, store = self.config, self.data.speech
        features = []
        with progress_bar(quiet=self.quiet) as bar:
            task = bar.add_task("features for units", total=len(store), speed="")
            for clip in range(len(store)):
                if interrupt.caught:
                    return None
                wave = store.whole(clip)
                if i == 0:
                    features.append(mfcc_with_deltas(wave))
                else:
                    states = mini_wavlm.hidden_states(self.model, wave)
                    features.append(states[config.unit_layer].astype(np.float16))
                bar.update(task, advance=1)
        count = config.units_of(i)
        made = units.cluster(features, self.data.train, count, config.seed)
        made.save(path)
        log.info("iteration %d: %d units of %d files", i + 1, count, len(store))
        return made

    def _learner(self, count: int) -> tuple[MaskedUnitLoss, torch.optim.AdamW]:
        config, i = self.config, self.state.iteration
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed + 1000 * (i + 1))
            head = MaskedUnitLoss(config.architecture.hidden, count)
        named = [*self.model.named_parameters("model"), *head.named_parameters("head")]
        groups = [
            {"params": [p for _, p in named if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for _, p in named if p.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), eps=1e-6)
        if self.resumed and self.state.step:
            load_exactly(head, _below(self.resumed, "head."), f"{self.file}: head")
            for name, parameter in named:
                slots = _below(self.resumed, f"optimizer.{name}.")
                optimizer.state[parameter].update({k: t.clone() for k, t in slots.items()})
        self.resumed = {}
        return head, optimizer

    def _warm_front_end(self, targets: Units, interrupt: Interrupt) -> bool:
        """Teach the convolutions the first units; False if interrupted."""
        if self.state.iteration or self.state.warm or not self.config.front_end_steps:
            return True
        batches = ((waves, wanted) for _, waves, wanted, _ in self._batches(targets))
        self.state.warm = warm_up(
            self.model, targets.count, batches, self.config, interrupt, quiet=self.quiet
        )
        return self.state.warm

    def _batches(self, targets: Units) -> Iterator[tuple[list[Crop], Tensor, Tensor, Tensor]]:
        config, state = self.config, self.state
        seed = [config.seed, 1, state.iteration]
        step = state.step
        frames = (round(config.batch_seconds * 50), round(config.crop_seconds * 50))
        for _, crops in epochs(self.data.speech, self.data.train, *frames, seed, step):
            rng = np.random.default_rng(
                np.random.SeedSequence([config.seed, 2, state.iteration, step])
            )
            clean = np.stack([crop.read(self.data.speech) for crop in crops])
            noise = self.data.noise
            mixed, _ = disturb(clean, noise, self.data.train_noise, config.disturbance, rng)
            mask = np.stack([span_mask(crop.frames, rng) for crop in crops])
            wanted = [targets.labels[c.clip][c.start : c.start + c.frames] for c in crops]
            yield (
                crops,
                torch.from_numpy(normalize(mixed)),
                torch.from_numpy(np.stack(wanted).astype(np.int64)),
                torch.from_numpy(mask),
            )
            step += 1

    def _train(
        self,
        targets: Units,
        head: MaskedUnitLoss,
        optimizer: torch.optim.AdamW,
        interrupt: Interrupt,
    ) -> bool:
        """Train this iteration to its end (True) or until interrupted (False)."""
        config, state, model = self.config, self.state, self.model
        weight = config.visible_weight_of(state.iteration)
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
            model.train()
            for crops, waves, wanted, mask in self._batches(targets):
                if state.total is not None and state.step >= state.total:
                    break
                if interrupt.caught:
                    return False
                now_rate = rate(config, state.step, state.total)
                for group in optimizer.param_groups:
                    group["lr"] = now_rate
                states = model(waves, mask_time_indices=mask).last_hidden_state  # (B, T, D)
                found = head(states, wanted, mask, visible=weight > 0)
                loss = found.masked_loss
                if found.visible_loss is not None:
                    loss = loss + weight * found.visible_loss
                if not torch.isfinite(loss):
                    names = ", ".join(self.data.speech.clips[c.clip].path.name for c in crops[:3])
                    raise EnhanceError(
                        f"iteration {state.iteration + 1}, step {state.step + 1}: the loss is "
                        f"{loss.item()} (seed {config.seed}, files {names}, ...); lower the "
                        "learning rate"
                    )
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(parameters, config.clip_norm)
                optimizer.step()
                state.step += 1
                add = (found.masked_loss.item(), found.correct, found.masked, 1)
                state.sums = [a + b for a, b in zip(state.sums, add, strict=True)]
                self._write_history(history, head, targets)
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
                    self._save(head, optimizer)
                    saved = now
        model.eval()
        return True

    def _write_history(self, file: Any, head: MaskedUnitLoss, targets: Units) -> None:
        config, state = self.config, self.state
        place = {"iteration": state.iteration + 1, "step": state.before + state.step}
        rows = []
        if state.step % config.log_every == 0:
            loss, correct, masked, steps = state.sums
            rows.append(
                {"type": "train", **place, "loss": loss / steps, "accuracy": correct / masked}
            )
            state.sums = [0.0, 0, 0, 0]
        if state.step % config.validate_every == 0 and self.data.held:
            found = evaluate(self.model, head, self.data, targets, config.seed)
            rows.append({"type": "validation", **place, **found.brief()})
        for row in rows:
            file.write(json.dumps(row) + "\n")
            file.flush()
            log.info("%s (%.0f s)", json.dumps(row), state.seconds)

    def _finish_iteration(self, targets: Units, head: MaskedUnitLoss) -> None:
        config, state = self.config, self.state
        row: dict[str, Any] = {
            "units": targets.count,
            "features": f"hidden state {config.unit_layer}" if state.iteration else "MFCC, deltas",
            "steps": state.step,
            "seconds": round(state.seconds),
        }
        if self.data.held:
            for name, mix in (("clean", None), ("disturbed", config.disturbance)):
                found = evaluate(self.model, head, self.data, targets, config.seed, mix)
                row[name] = found.full()
        log.info("iteration %d: %s", state.iteration + 1, json.dumps(row))
        self.state = State(
            iteration=state.iteration + 1,
            before=state.before + state.step,
            finished=[*state.finished, row],
        )
        self._save(head, None)

    def _save(self, head: MaskedUnitLoss, optimizer: torch.optim.AdamW | None) -> None:
        tensors = {f"model.{n}": t for n, t in self.model.state_dict().items()}
        tensors |= {f"head.{n}": t for n, t in head.state_dict().items()}
        named = [*self.model.named_parameters("model"), *head.named_parameters("head")]
        if optimizer is not None:
            for name, parameter in named:
                for slot, value in optimizer.state[parameter].items():
                    tensors[f"optimizer.{name}.{slot}"] = torch.as_tensor(value)
        header = {"config": self.plain, "state": asdict(self.state)}
        save_tensors(self.file, tensors, header, FORMAT)


def _below(tensors: dict[str, Tensor], start: str) -> dict[str, Tensor]:
    return {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}

"""The clips of a run: what training hears, and what is held back for validation.

How they are mixed may change in the course of the run (`mixing_at`): a pure function of the step,
so that mixtures are the same for any number of workers and processes, and on resume.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any

from enhance.config import DataConfig, Knot, MixingConfig, knots
from enhance.data.corpus.clip_store import ClipStore
from enhance.data.corpus.clips import load_clips, split
from enhance.data.corpus.manifest import Clip
from enhance.data.mixing.mixer import Mixer
from enhance.data.mixing.rooms import bank
from enhance.errors import EnhanceError
from enhance.training.run.run_folder import fingerprint, grouping

SPLIT_SEED = 0
"""One split for all runs on the same data: runs of different seeds compare, and none trains on
what another holds back."""


class TrainingData:
    """Clips, split and decoded.

    ``mixing`` says how to mix, ``curriculum`` how that changes in the course of the run; seed and
    alignment are those of `Mixer`. An `EnhanceError` if data are missing, or nothing is held back
    where it ``validates``.

    Attributes
    ----------
    parts
        All clips by part, ``"train"`` and ``"validation"``.
    mixer
        Of the training mixtures.
    mixing_of
        How to mix in each step, see `enhance.data.mixing.loader.batches`; None for always the same.
    fingerprint
        Hash of the training clips.
    groups
        Hash of how labels group them, and of a folder's rooms, see `grouping`.
    """

    def __init__(
        self,
        config: DataConfig,
        mixing: MixingConfig,
        curriculum: Sequence[Knot] = (),
        *,
        seed: int = 0,
        sample_rate: int = 16000,
        alignment: int = 1,
        validates: bool = True,
        quiet: bool = False,
    ) -> None:
        self.config, self.mixing = config, mixing
        self._rate, self._quiet = sample_rate, quiet
        speech, noise = load_clips(config, quiet=quiet)
        speech, self._held_speech = split(speech, config.held_back, "speaker", SPLIT_SEED)
        noise, self._held_noise = split(noise, config.held_back, "path", SPLIT_SEED)
        if validates and not (self._held_speech and self._held_noise):
            raise EnhanceError(
                "nothing is held back for validation; set data.held_back above 0, "
                "or training.validate_every to 0"
            )
        self.parts: dict[str, Sequence[Clip]] = {
            "train": [*speech, *noise],
            "validation": [*self._held_speech, *self._held_noise],
        }
        self.fingerprint = fingerprint(self.parts["train"])
        seconds = [sum(clip.duration for clip in clips) for clips in (speech, noise)]
        speech_store, noise_store = (
            ClipStore(
                *(clips, sample_rate, config.cache_mb * part / sum(seconds)),
                cache_gb=config.cache_gb,
                name=name,
                quiet=quiet,
            )
            for name, clips, part in zip(("speech", "noise"), (speech, noise), seconds, strict=True)
        )
        found = knots(mixing, curriculum)
        self.mixing_of = partial(mixing_at, found) if curriculum else None
        wide = widest(found)
        responses = bank(wide, config.rirs, seed, sample_rate, quiet=quiet)
        # Simulated rooms follow from the configuration.
        self.groups = grouping(speech, noise, rooms=responses if config.rirs else ())
        self.mixer = Mixer(
            speech_store, noise_store, wide, seed, config.balance, alignment, responses
        )

    def held_back(self) -> tuple[ClipStore, ClipStore]:
        """Speech and noise of validation, to be read from their files."""
        return (
            ClipStore(self._held_speech, self._rate, 0, name="held-back speech", quiet=self._quiet),
            ClipStore(self._held_noise, self._rate, 0, name="held-back noise", quiet=self._quiet),
        )

    def hours(self) -> dict[str, dict[str, float]]:
        """Hours of training audio by kind and source."""
        table: dict[str, dict[str, float]] = {}
        for kind, store in (("speech", self.mixer.speech), ("noise", self.mixer.noise)):
            hours: dict[str, float] = defaultdict(float)
            for clip in store.clips:
                hours[clip.source] += clip.duration / 3600
            table[kind] = {name: round(value, 4) for name, value in sorted(hours.items())}
        return table


def mixing_at(found: Sequence[tuple[int, MixingConfig]], step: int) -> MixingConfig:
    """The configuration with which the mixtures of a step are drawn.

    ``found`` is what `enhance.config.knots` returned; ``step`` steps were finished before, 0 in the
    first. Between two knots numbers change in a straight line, ranges at both ends; what counts
    (`noise_layers`, `babble_voices`) changes at the knot. Behind the last all stays.
    """
    after = next((i for i, (at, _) in enumerate(found) if at > step), None)
    if after is None:
        return found[-1][1]
    (begin, old), (end, new) = found[after - 1], found[after]
    share = (step - begin) / (end - begin)
    return replace(old, **{
        name: _between(getattr(old, name), getattr(new, name), share)
        for name in (f.name for f in fields(MixingConfig))
        if getattr(old, name) != getattr(new, name)
    })  # fmt: skip


def widest(found: Sequence[tuple[int, MixingConfig]]) -> MixingConfig:
    """The first configuration with each probability at its highest: what a mixer must be able to
    draw."""
    names = [f.name for f in fields(MixingConfig) if f.name.endswith("_probability")]
    highest = {name: max(getattr(mixing, name) for _, mixing in found) for name in names}
    return replace(found[0][1], **highest)


def _between(old: Any, new: Any, share: float) -> Any:
    if isinstance(old, tuple):
        return tuple(_between(a, b, share) for a, b in zip(old, new, strict=True))
    return old + share * (new - old) if isinstance(new, float) else old

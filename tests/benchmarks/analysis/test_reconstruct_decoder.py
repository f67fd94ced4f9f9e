"""The decoder learns: below the mean spectrum, near the identity, and the same when resumed."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tiny_reconstruct import make_corpus

from benchmarks.analysis.reconstruct import spectrum
from benchmarks.analysis.reconstruct.config import DecoderConfig
from benchmarks.analysis.reconstruct.data import DecoderData
from benchmarks.analysis.reconstruct.decoder import Decoder
from benchmarks.analysis.reconstruct.sources import Source, log_mel
from benchmarks.analysis.reconstruct.training import Trained, train
from enhance.errors import EnhanceError
from enhance.training.engine.interrupt import Interrupt

TINY = DecoderConfig(
    hours=0, steps=60, batch=4, crop_frames=40, width=16, blocks=1, kernel=3, validate_every=20,
    log_every=20, warmup_steps=5, learning_rate=1e-2, held_back=0.2,
)  # fmt: skip


def log_spectrum(wave: np.ndarray) -> np.ndarray:
    return spectrum.decibels(spectrum.of_clip(wave)).numpy()


SAME = Source("log spectrum", "teacher", "identity", spectrum.GRID, spectrum.BINS, log_spectrum)
"""Features that are the target itself."""


def asking_to_stop(interrupt: Interrupt, calls: int) -> Source:
    """Asks to stop after so many clips were heard."""
    source, left = log_mel(20), iter(range(calls - 1, -1, -1))

    def of(wave: np.ndarray) -> np.ndarray:
        if next(left) == 0:
            interrupt.caught = "SIGINT"
        return source.of(wave)

    return replace(source, of=of)


@pytest.fixture(scope="module")
def buzz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("buzz"))


def fit(config: DecoderConfig, source: Source, corpus: Path, output: Path) -> Trained:
    data = DecoderData.choose(corpus, config, quiet=True)
    found = train(config, source, data, output, Interrupt(), quiet=True)
    assert found.about["steps"] == config.steps
    return found


def test_training_lowers_the_loss_and_beats_the_mean_on_held_back_clips(
    buzz: Path, tmp_path: Path
) -> None:
    found = fit(replace(TINY, log_every=5), log_mel(), buzz, tmp_path)
    held = found.about["held_back"]
    assert held["l1_db"] < 0.7 * held["mean_spectrum_l1_db"]
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").open()]
    losses = [row["loss"] for row in rows if row["type"] == "train"]
    assert losses[-1] < 0.8 * losses[0]
    assert found.about["steps"] == 60 and not found.decoder.training
    assert rows[-1]["l1_db"] == held["l1_db"]


def test_held_back_figures_equal_a_loop(buzz: Path, tmp_path: Path) -> None:
    config = replace(TINY, steps=5)
    found = fit(config, SAME, buzz, tmp_path)
    data = DecoderData.choose(buzz, config, quiet=True)
    heard = {data.speech.clips[i].path for i in data.train}
    assert data.held and not heard & {data.speech.clips[i].path for i in data.held}
    far, mean = [], []
    for i in data.held:
        wanted = log_spectrum(data.speech.whole(i))
        with torch.no_grad():
            got = found.decoder(
                torch.from_numpy(wanted)[None], torch.ones(1, len(wanted), dtype=torch.bool)
            )[0].numpy()
        far.append(np.abs(got - wanted))
        mean.append(np.abs(found.decoder.mean.numpy() - wanted))
    held = found.about["held_back"]
    assert held["l1_db"] == pytest.approx(np.concatenate(far).mean(), rel=1e-4)
    assert held["mean_spectrum_l1_db"] == pytest.approx(np.concatenate(mean).mean(), rel=1e-4)


def test_the_spectrum_itself_is_nearly_given_back(buzz: Path, tmp_path: Path) -> None:
    found = fit(replace(TINY, steps=150), SAME, buzz, tmp_path)
    held = found.about["held_back"]
    assert held["l1_db"] < 0.2 * held["mean_spectrum_l1_db"]


def test_resumed_is_unstopped_to_the_bit(buzz: Path, tmp_path: Path) -> None:
    config = replace(TINY, steps=30)
    data = DecoderData.choose(buzz, config, quiet=True)
    whole = train(config, log_mel(20), data, tmp_path / "whole", Interrupt(), quiet=True)
    assert whole.about["steps"] == 30
    interrupt = Interrupt()
    # Heard while features are made: nothing to keep yet.
    assert (
        train(config, asking_to_stop(interrupt, 3), data, tmp_path / "parts", interrupt, quiet=True)
        is None
    )
    begun = train(config, log_mel(20), data, tmp_path / "parts", Interrupt(), quiet=True)
    assert begun is not None and begun.digest == whole.digest
    interrupt = Interrupt()

    class AtStep(DecoderConfig):
        """Stops when the learning rate of a step is asked for."""

        def rate(self, step: int, total: int | None) -> float:
            if step == 13:
                interrupt.caught = "SIGTERM"
            return super().rate(step, total)

    stopping = AtStep(**{f.name: getattr(config, f.name) for f in fields(config)})
    assert train(stopping, log_mel(20), data, tmp_path / "cut", interrupt, quiet=True) is None
    again = train(config, log_mel(20), data, tmp_path / "cut", Interrupt(), quiet=True)
    assert again is not None and again.digest == whole.digest
    assert again.about["held_back"] == whole.about["held_back"]
    assert (tmp_path / "cut/history.jsonl").read_bytes() == (
        tmp_path / "whole/history.jsonl"
    ).read_bytes()
    # A finished one is taken up as it is.
    third = train(config, log_mel(20), data, tmp_path / "cut", Interrupt(), quiet=True)
    assert third is not None and third.digest == whole.digest and third.about == again.about


def test_another_corpus_or_source_is_refused(buzz: Path, tmp_path: Path) -> None:
    config = replace(TINY, steps=3)
    data = DecoderData.choose(buzz, config, quiet=True)
    train(config, log_mel(20), data, tmp_path, Interrupt(), quiet=True)
    with pytest.raises(EnhanceError, match="another source"):
        train(config, log_mel(40), data, tmp_path, Interrupt(), quiet=True)
    other = DecoderData.choose(buzz, replace(config, hours=4e-4), quiet=True)
    assert len(other.train) < len(data.train)
    with pytest.raises(EnhanceError, match="another corpus"):
        train(config, log_mel(20), other, tmp_path, Interrupt(), quiet=True)


def test_noisy_features_keep_the_clean_target(buzz: Path) -> None:
    config = replace(TINY, noisy=True)
    data = DecoderData.choose(buzz, config, quiet=True)
    clip = data.train[0]
    clean, heard = data.speech.whole(clip), data.heard(clip)
    assert np.array_equal(heard, data.heard(clip))  # the same every time, to be cached
    rest = heard - clean
    snr = 10 * np.log10(np.sum(clean.astype(float) ** 2) / np.sum(rest.astype(float) ** 2))
    assert -5.1 < snr < 5.1
    np.testing.assert_allclose(spectrum.level(data.clean(clip)), 1, rtol=1e-4)
    np.testing.assert_allclose(data.clean(clip) * data.levels[clip], clean, atol=1e-6)
    assert np.array_equal(data.clean(clip, 100, 50), data.clean(clip)[100:150])
    assert not set(data.train_noise) & set(data.held_noise)


def test_decoder_starts_at_the_mean_and_only_sees_its_field() -> None:
    torch.manual_seed(0)
    decoder = Decoder(6, 8, 2, 3).eval()
    frames = torch.randn(40, 6)
    decoder.normalize_by(frames, 5 + 3 * torch.randn(50, spectrum.BINS))
    valid = torch.ones(1, 40, dtype=torch.bool)
    with torch.no_grad():
        torch.testing.assert_close(
            decoder(frames[None], valid)[0], decoder.mean.expand(40, spectrum.BINS)
        )
        for parameter in decoder.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
        before = decoder(frames[None], valid)[0]
        frames[20] += 1
        moved = (decoder(frames[None], valid)[0] - before).abs().amax(1) > 0
    assert moved.nonzero().flatten().tolist() == [18, 19, 20, 21, 22]  # two blocks of 3 frames


def test_too_short_a_corpus_is_refused_in_one_line(tmp_path: Path) -> None:
    for kind in ("speech", "noise"):
        (tmp_path / kind).mkdir()
        soundfile.write(tmp_path / kind / "a.wav", 0.1 * np.ones(9000, np.float32), 16000)
    with pytest.raises(EnhanceError, match=r"clips of speech of \d"):
        DecoderData.choose(tmp_path, TINY, quiet=True)

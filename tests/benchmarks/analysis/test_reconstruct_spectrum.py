"""Spectrum, energies by band and Griffin-Lim against numpy; frames of features on its frames."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.analysis.reconstruct import spectrum
from benchmarks.analysis.reconstruct.sources import log_mel
from benchmarks.analysis.reconstruct.training import on_frames
from distill.teacher.frames import FrameGrid, resample

RATE = 16000


def noise(samples: int, seed: int = 0) -> np.ndarray:
    wave = np.random.default_rng(seed).standard_normal(samples).astype(np.float32)
    return wave / np.float32(spectrum.level(wave))


def by_numpy(wave: np.ndarray) -> np.ndarray:
    """Magnitudes, frame by frame: mirrored ends, periodic Hann window, rfft."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)
    padded = np.pad(wave.astype(np.float64), 256, mode="reflect")
    rows = [
        np.abs(np.fft.rfft(padded[128 * t : 128 * t + 512] * window))
        for t in range(len(wave) // 128 + 1)
    ]
    return np.array(rows) / np.sqrt(np.sum(window**2))


def test_magnitudes_equal_a_loop_over_frames() -> None:
    wave = noise(5000)
    found = spectrum.magnitudes(torch.from_numpy(wave)[None])[0].numpy()
    assert found.shape == (5000 // 128 + 1, 257)
    np.testing.assert_allclose(found, by_numpy(wave), atol=2e-5)
    assert np.mean(found**2) == pytest.approx(1, abs=0.1)  # white noise of level 1 lies at 0 dB
    inside = spectrum.magnitudes(torch.from_numpy(wave[128 * 3 - 256 : 128 * 3 + 256 + 640])[None],
                                 centre=False)[0]  # fmt: skip
    np.testing.assert_allclose(inside.numpy(), found[3:9], atol=2e-5)


def test_decibels_come_back() -> None:
    values = torch.tensor([0.0, 1e-4, 1e-2, 1.0, 30.0])
    torch.testing.assert_close(spectrum.from_decibels(spectrum.decibels(values)), values,
                               atol=1e-6, rtol=1e-4)  # fmt: skip
    assert spectrum.from_decibels(torch.tensor(-200.0)) == 0


def test_energies_by_band_equal_numpys() -> None:
    t = np.arange(16000) / RATE
    tones = ((500, 1), (1500, 0.5), (3000, 0.3), (6000, 0.2))
    wave = sum(a * np.sin(2 * np.pi * f * t) for f, a in tones).astype(np.float32)
    found = spectrum.energies(spectrum.magnitudes(torch.from_numpy(wave)[None])[0])
    power = by_numpy(wave) ** 2
    hertz = np.arange(257) * RATE / 512
    for value, (low, high) in zip(found, spectrum.BANDS, strict=True):
        inside = (hertz >= low) & ((hertz < high) | (high == 8000))
        assert value == pytest.approx(power[:, inside].sum(), rel=1e-5)


def test_high_frequencies_lost_are_told_whatever_the_level() -> None:
    wave = noise(16000)
    original = spectrum.magnitudes(torch.from_numpy(wave)[None])[0]
    found = 0.1 * original  # 20 dB less everywhere
    found[:, 128:] *= 0.5  # and 6.02 dB less from 4 kHz
    energy = spectrum.energies(original), spectrum.energies(found)
    gains = spectrum.gains(*energy, len(original))
    assert gains["0-1 kHz"] == pytest.approx(-20, abs=1e-4)
    assert gains["4-8 kHz"] == pytest.approx(-26.02, abs=1e-2)
    assert gains["high"] == pytest.approx(-6.02, abs=1e-2)
    quiet = original.clone()
    quiet[:, 128:] = 1e-5  # 100 dB under the mean: no original to lose
    assert "high" not in spectrum.gains(spectrum.energies(quiet), energy[1], len(quiet))


def test_distances_equal_a_loop_over_loud_frames() -> None:
    rng = np.random.default_rng(1)
    a, b = (torch.from_numpy(rng.uniform(0.1, 2, (20, 257))).float() for _ in range(2))
    a[5:9] *= 1e-3  # 60 dB down: not heard
    found = spectrum.distances(a, b)
    rows = [t for t in range(20) if not 5 <= t < 9]
    far = np.array([
        [20 * np.log10(b[t, k].item() + 1e-3) - 20 * np.log10(a[t, k].item() + 1e-3)
         for k in range(257)] for t in rows
    ])  # fmt: skip
    assert found["l1_db"] == pytest.approx(np.abs(far).mean(), rel=1e-5)
    assert found["lsd_db"] == pytest.approx(np.sqrt((far**2).mean(1)).mean(), rel=1e-5)
    assert found["l1_low_db"] == pytest.approx(np.abs(far[:, :128]).mean(), rel=1e-5)
    assert found["l1_high_db"] == pytest.approx(np.abs(far[:, 128:]).mean(), rel=1e-5)


def test_griffin_lim_gives_back_the_magnitudes_and_the_seed_decides() -> None:
    t = np.arange(16000) / RATE
    wave = (np.sin(2 * np.pi * (300 + 400 * t) * t) * (1 + np.sin(9 * t))).astype(np.float32)
    wanted = spectrum.magnitudes(torch.from_numpy(wave)[None])[0]
    state = torch.random.get_rng_state()
    found = spectrum.waveform(wanted, 16000, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert np.array_equal(found, spectrum.waveform(wanted, 16000, seed=3))
    assert not np.array_equal(found, spectrum.waveform(wanted, 16000, seed=4))
    again = spectrum.magnitudes(torch.from_numpy(found)[None])[0]
    assert (again - wanted).norm() < 0.12 * wanted.norm()


@pytest.mark.parametrize(
    "grid",
    [FrameGrid(-80, 320, 400), FrameGrid(0, 160, 400), spectrum.GRID, FrameGrid(-200, 160, 400)],
)
def test_features_of_a_crop_are_those_of_the_clip(grid: FrameGrid) -> None:
    samples = 16000
    rng = np.random.default_rng(2)
    count = (samples - grid.offset - grid.field) // grid.stride + 1
    values = rng.standard_normal((count, 3)).astype(np.float32)
    frames = samples // 128 + 1
    whole, valid = resample(
        torch.from_numpy(values)[None], torch.ones(1, count, dtype=torch.bool),
        grid, spectrum.GRID, frames,
    )  # fmt: skip
    for start, length in ((0, frames), (2, 30), (61, 17), (frames - 9, 9), (frames + 50, 4)):
        x, known = on_frames(values, grid, start, length)
        assert x.shape == (length, 3)
        stop = min(start + length, frames)
        torch.testing.assert_close(x[: max(stop - start, 0)], whole[0, start:stop])
        assert torch.equal(known[: max(stop - start, 0)], valid[0, start:stop])
        if start > frames:
            assert not known.any() and not x.any()


def test_log_mel_features_do_not_hear_the_level() -> None:
    wave = noise(8000)
    source = log_mel()
    found = source.of(wave)
    assert found.shape == ((8000 - 400) // 160 + 1, 80)
    np.testing.assert_allclose(source.of(0.01 * wave), found, atol=1e-4)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    power = np.abs(np.fft.rfft(wave[1600:2000].astype(np.float64) * window, 512)) ** 2

    def mel(hertz: float) -> float:
        return 2595 * np.log10(1 + hertz / 700)

    edges = 700 * (10 ** (np.linspace(mel(0), mel(8000), 82) / 2595) - 1)
    hertz = np.arange(257) * RATE / 512
    for band in (3, 40, 79):  # a triangle between neighbouring edges, in hertz
        low, top, high = edges[band : band + 3]
        triangle = np.clip(np.minimum((hertz - low) / (top - low), (high - hertz) / (high - top)),
                           0, None)  # fmt: skip
        assert found[10, band] == pytest.approx(np.log(power @ triangle + 1e-3), abs=1e-3)

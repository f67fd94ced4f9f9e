"""MFCC against direct formulas, k-means against Lloyd's rule, units against the model's frames."""

from __future__ import annotations

import weakref
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy.fft import dct
from transformers import WavLMConfig
from transformers.models.wavlm.modeling_wavlm import WavLMFeatureEncoder

from distill.ssl.data import units as kmeans
from distill.ssl.data.units import deltas, frame_count, mfcc, mfcc_with_deltas
from enhance.errors import EnhanceError


def reference_mfcc(wave: np.ndarray, frame: int) -> np.ndarray:
    """One frame by the formulas of Kaldi's documentation, written with loops and a direct DFT."""
    x = wave[320 * frame : 320 * frame + 400].astype(np.float64)
    x = x - x.mean()
    y = x.copy()
    for n in range(400):
        y[n] = x[n] - 0.97 * x[max(n - 1, 0)]
    n = np.arange(400)
    y = y * (0.5 - 0.5 * np.cos(2 * np.pi * n / 399)) ** 0.85
    k = np.arange(257)
    power = np.abs(np.exp(-2j * np.pi * np.outer(k, n) / 512) @ y) ** 2

    def mel(hertz: float) -> float:
        return 1127 * np.log(1 + hertz / 700)

    low, step = mel(20), (mel(8000) - mel(20)) / 24
    energies = np.zeros(23)
    for band in range(23):
        left, centre, right = (low + step * (band + i) for i in range(3))
        for b in range(256):
            m = mel(b * 16000 / 512)
            if left < m <= centre:
                energies[band] += power[b] * (m - left) / (centre - left)
            elif centre < m < right:
                energies[band] += power[b] * (right - m) / (right - centre)
    cepstrum = dct(np.log(energies), type=2, norm="ortho")[:13]
    return cepstrum * (1 + 11 * np.sin(np.pi * np.arange(13) / 22))


def test_mfcc_is_kaldis() -> None:
    wave = np.random.default_rng(0).normal(0, 0.1, 2000).astype(np.float32)
    found = mfcc(wave)
    assert found.shape == (6, 13)
    for frame in (0, 3, 5):
        # float32 throughout, of logarithms, weighted by the lifter up to 12 times
        np.testing.assert_allclose(found[frame], reference_mfcc(wave, frame), atol=2e-4)


def test_digital_silence_is_one_level_in_every_band_and_frame() -> None:
    found = mfcc_with_deltas(np.zeros(1000, np.float32))
    assert found[0, 0] < -10  # all bands at their floor
    np.testing.assert_allclose(found[:, 0], found[0, 0], rtol=1e-6)  # sums differ in the last bit
    np.testing.assert_allclose(found[:, 1:], 0, atol=1e-3)  # no shape, no change


def test_deltas_are_least_squares_slopes() -> None:
    features = np.random.default_rng(2).normal(size=(9, 3))
    found = deltas(features)
    padded = np.concatenate([features[:1]] * 2 + [features] + [features[-1:]] * 2)
    for t in range(9):
        for d in range(3):
            slope = np.polyfit(np.arange(-2, 3), padded[t : t + 5, d], 1)[0]
            assert found[t, d] == pytest.approx(slope, abs=1e-6)


@pytest.mark.parametrize("extra", [0, 1, 79, 80, 81, 159, 319])
def test_units_line_up_with_the_models_frames(extra: int) -> None:
    config = WavLMConfig(
        conv_dim=[2] * 7, feat_extract_norm="layer", conv_kernel=[10, 3, 3, 3, 3, 2, 2]
    )
    encoder = WavLMFeatureEncoder(config)
    for whole in range(2, 12):
        samples = 320 * whole + extra
        with torch.no_grad():
            frames = encoder(torch.zeros(1, samples)).shape[-1]
        assert frame_count(samples) == frames
        assert mfcc_with_deltas(np.zeros(samples, np.float32)).shape == (frames, 39)
    assert frame_count(399) == 0
    assert len(mfcc_with_deltas(np.zeros(399, np.float32))) == 0
    assert frame_count(400) == 1


def test_a_frame_sees_its_own_samples_only() -> None:
    wave = np.random.default_rng(3).normal(0, 0.1, 4000).astype(np.float32)
    changed = wave.copy()
    changed[320 * 5 + 400] += 0.5  # the first sample after frame 5, inside frame 6
    before, after = mfcc(wave), mfcc(changed)
    assert np.array_equal(before[:6], after[:6])
    assert not np.allclose(before[6], after[6])


def clustered(files: list[np.ndarray], train: list[int], count: int, seed: int) -> kmeans.Units:
    """Units of files that are all in memory."""
    order, first = kmeans.fit_first([len(x) for x in files], train, seed)
    made = kmeans.cluster((files[i] for i in order), order, first, count, seed)
    assert isinstance(made, kmeans.Units)
    return made


def test_kmeans_finds_separate_clouds() -> None:
    rng = np.random.default_rng(4)
    centres = np.array([[0, 0], [20, 0], [0, 20], [20, 20.0]])
    which = rng.integers(4, size=4000)
    points = centres[which] + rng.normal(size=(4000, 2))
    made = clustered([points[:3000], points[3000:]], [0], 4, seed=0)
    # each centroid is the mean of what belongs to it (Lloyd's condition), near a true centre
    for centroid in made.centroids:
        assert np.abs(centres - centroid).sum(axis=1).min() < 0.3
    labels = np.concatenate(made.labels)
    for k in range(4):
        assert len(set(labels[which == k])) == 1
    assert [len(x) for x in made.labels] == [3000, 1000]


def test_assign_is_the_nearest_centroid() -> None:
    rng = np.random.default_rng(5)
    features, centroids = rng.normal(size=(50, 7)), rng.normal(size=(9, 7))
    distance = [[np.linalg.norm(x - c) for c in centroids] for x in features]
    assert kmeans.assign(features, centroids).tolist() == np.argmin(distance, axis=1).tolist()


def test_held_back_files_do_not_move_centroids() -> None:
    rng = np.random.default_rng(6)
    files = [rng.normal(size=(300, 4)) for _ in range(3)]
    made = clustered(files, [0, 2], 8, seed=1)
    again = clustered([files[0], files[1] + 100, files[2]], [0, 2], 8, seed=1)
    assert np.array_equal(made.centroids, again.centroids)
    assert not np.array_equal(made.centroids, clustered(files, [0, 1, 2], 8, seed=1).centroids)


def test_units_survive_the_disk(tmp_path) -> None:
    made = clustered([np.eye(5), np.zeros((0, 5)), np.eye(5)[:2]], [0], 3, seed=0)
    made.save(tmp_path / "u.safetensors")
    back = kmeans.Units.load(tmp_path / "u.safetensors")
    assert np.array_equal(back.centroids, made.centroids)
    assert [x.tolist() for x in back.labels] == [x.tolist() for x in made.labels]
    (tmp_path / "bad.safetensors").write_text("no")
    with pytest.raises(EnhanceError, match=r"bad\.safetensors"):
        kmeans.Units.load(tmp_path / "bad.safetensors")


def test_too_few_frames_are_refused() -> None:
    with pytest.raises(EnhanceError, match="3 frames cannot make 5 units"):
        kmeans.fit(np.zeros((3, 2)), 5, 0)


def test_no_more_features_are_kept_than_centroids_are_fitted_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kmeans, "FIT_FRAMES", 700)
    rng = np.random.default_rng(7)
    files = [rng.normal(size=(n, 3)).astype(np.float32) for n in (100, 300, 200, 400, 500, 250)]
    order, first = kmeans.fit_first([len(x) for x in files], [0, 1, 3, 4], 0)
    assert sorted(order) == list(range(6))
    assert set(order[:first]) < {0, 1, 3, 4}  # none that is held back, and not all
    assert 700 <= sum(len(files[i]) for i in order[:first]) < 700 + 500
    assert order[:first] != kmeans.fit_first([len(x) for x in files], [0, 1, 3, 4], 3)[0][:first]
    alive: list[weakref.ref[np.ndarray]] = []

    def heard() -> Iterator[np.ndarray]:
        for i in order:
            features = files[i].copy()
            alive.append(weakref.ref(features))
            yield features
            del features
            if len(alive) > first:
                assert sum(x() is not None for x in alive[first:-1]) == 0

    made = kmeans.cluster(heard(), order, first, 5, seed=0)
    assert isinstance(made, kmeans.Units)
    for labels, features in zip(made.labels, files, strict=True):  # in the files' own order
        np.testing.assert_array_equal(labels, kmeans.assign(features, made.centroids))
    assert kmeans.cluster((files[i] for i in order[:-1]), order, first, 5, seed=0) is None
    assert kmeans.cluster((files[i] for i in order[: first - 1]), order, first, 5, 0) is None

"""Corpora as they are unpacked, a few files of a tenth of a second each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

RATE = 48000


def put(path: Path, seed: int, samples: int = 4800, plus: Path | None = None) -> Path:
    """A 16-bit file of noise, on top of another file."""
    wave = np.random.default_rng(seed).integers(-3000, 3000, samples).astype(np.int16)
    if plus is not None:
        wave += soundfile.read(plus, dtype="int16")[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, RATE, subtype="PCM_16")
    return path


def make_voicebank(root: Path, samples: int = 4800) -> Path:
    """VoiceBank-DEMAND: two speakers to train on, two to test on."""
    names = {
        "trainset_28spk": ("p226_001", "p226_002", "p287_001"),
        "testset": ("p232_001", "p257_003"),
    }
    for part, members in names.items():
        for seed, name in enumerate(members):
            clean = put(root / f"clean_{part}_wav" / f"{name}.wav", seed, samples)
            put(root / f"noisy_{part}_wav" / f"{name}.wav", 100 + seed, samples, plus=clean)
    (root / "log_trainset_28spk.txt").write_text(
        "p226_001 babble 15\np226_002 ssn 0\np287_001 babble 5\n"
    )
    (root / "log_testset.txt").write_text("p232_001 bus 17.5\np257_003 living 2.5\n")
    return root


def make_dns(root: Path, samples: int = 4800) -> Path:
    """DNS Challenge: one reader, one voice of another source, two noises, two test pairs."""
    data = root / "datasets"
    for seed, name in enumerate((
        "clean/book_00000_chp_0009_reader_06709_0", "clean/book_00000_chp_0009_reader_06709_1",
        "clean/emotional_speech/happy_7", "noise/door_Freesound_validated_235661_0",
        "noise/door_Freesound_validated_235661_4", "noise/0-IvcPw7yYo",
    )):  # fmt: skip
        put(data / f"{name}.wav", seed, samples)
    test = data / "test_set" / "synthetic" / "no_reverb"
    for number, name in (("158", "clnsp1_train_69005_1_snr15_tl-21"),
                         ("2", "clnsp44_amMeH4u6AO4_snr5_tl-18")):  # fmt: skip
        clean = put(test / "clean" / f"clean_fileid_{number}.wav", 7, samples)
        put(test / "noisy" / f"{name}_fileid_{number}.wav", int(number), samples, plus=clean)
    return root

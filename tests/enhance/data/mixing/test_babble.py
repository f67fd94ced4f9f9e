"""Babble: who may be heard behind whom, how many, how loud."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from audio_clips import clip

from enhance.data.corpus.clip_store import ClipStore
from enhance.data.corpus.manifest import Clip
from enhance.data.mixing.babble import Voices
from enhance.data.mixing.mixer import Mixer, MixingConfig
from enhance.errors import EnhanceError

BABBLE = MixingConfig(segment_seconds=1.0, babble_probability=1.0, babble_alone_probability=1.0)


def people(folder: Path) -> list[Clip]:
    """Six named speakers of source a, one of whom stands in source b, too; unknown ones in b and
    c."""
    clips = [
        clip(folder, f"{who}{i}", 0.6 + 0.5 * i, source="a", speaker=who)
        for who in ("ann", "bob", "cid", "dan", "eve", "fay")
        for i in range(2)
    ]
    clips.append(clip(folder, "ann-b", 1.5, source="b", speaker="ann"))
    clips += [clip(folder, f"b{i}", 1.2, source="b") for i in range(3)]
    clips += [clip(folder, f"c{i}", 1.2, source="c") for i in range(3)]
    return clips


def noise_store(folder: Path) -> ClipStore:
    return ClipStore([clip(folder, "n", 3, kind="noise", source="n")], quiet=True)


def may_be_one_person(a: Clip, b: Clip) -> bool:
    if a.speaker and b.speaker:
        return a.speaker == b.speaker
    # Ann speaks in source b, too: all of her clips may come from the unknown of b.
    sources = {"ann": {"a", "b"}}
    return bool(sources.get(a.speaker, {a.source}) & sources.get(b.speaker, {b.source}))


def test_nobody_is_heard_behind_himself(tmp_path: Path) -> None:
    store = ClipStore(people(tmp_path), quiet=True)
    mixer = Mixer(store, noise_store(tmp_path), BABBLE)
    targets, counts = set(), set()
    for index in range(300):
        recipe = mixer.draw(0, index)
        target = store.clips[recipe.speech[0].clip]
        targets.add((target.source, target.speaker))
        counts.add(len(recipe.babble))
        assert 3 <= len(recipe.babble) <= 8
        assert len(recipe.voice_db) == len(recipe.babble)
        named = []
        for row in recipe.babble:
            heard = [store.clips[piece.clip] for piece in row]
            assert not any(may_be_one_person(target, other) for other in heard)
            assert len({(other.source, other.speaker) for other in heard}) == 1
            named += [heard[0].speaker] if heard[0].speaker else []
        assert len(named) == len(set(named))  # no known speaker twice
    assert len(targets) == 9
    assert counts == {3, 4, 5, 6, 7, 8}


def test_voices_that_share_a_recording_may_be_one_person(tmp_path: Path) -> None:
    clips = [
        clip(tmp_path, who, 1.0, source=source, speaker=who, recording=tape)
        for who, source, tape in (
            ("ann", "a", "1"),
            ("bob", "a", "1"),
            ("cid", "a", "2"),
            ("dan", "d", "1"),
        )
    ]
    voices = Voices(ClipStore(clips, quiet=True), 0.5)
    assert [voices.most(i) for i in range(4)] == [2, 2, 3, 3]  # one tape of a is none of d
    rng = np.random.default_rng(0)
    assert {i for _ in range(50) for i in voices.draw(0, 2, rng)} == {2, 3}


def test_count_of_voices_knows_the_unknown(tmp_path: Path) -> None:
    voices = Voices(ClipStore(people(tmp_path), quiet=True), 0.5)
    assert voices.most(0) == math.inf  # ann: not source b, but source c
    assert voices.most(13) == math.inf
    alone = Voices(ClipStore(people(tmp_path)[:12], quiet=True), 0.5)
    assert {alone.most(i) for i in range(12)} == {5}
    only = Voices(ClipStore(people(tmp_path)[13:16], quiet=True), 0.5)
    assert {only.most(i) for i in range(3)} == {0}


def test_voices_are_drawn_as_often_as_targets(tmp_path: Path) -> None:
    clips = [clip(tmp_path, f"big{i}", 1.8, source="big") for i in range(5)]
    clips += [clip(tmp_path, "small", 1.0, source="small"), clip(tmp_path, "me", 1, source="me")]
    store = ClipStore(clips, quiet=True)
    rng = np.random.default_rng(0)
    for balance, share in ((0.0, 0.5), (1.0, 0.9)):
        voices = Voices(store, balance)
        found = np.array([voices.draw(6, 1, rng)[0] for _ in range(400)])
        spread = np.sqrt(share * (1 - share) / 400)
        assert np.mean(found < 5) == pytest.approx(share, abs=4 * spread)
        assert len(set(found)) == 6


def test_babble_stands_alone_or_beside_the_noise(tmp_path: Path) -> None:
    store = ClipStore(people(tmp_path), quiet=True)
    mixer = Mixer(
        store, noise_store(tmp_path), replace(BABBLE, snr=(0, 0), babble_alone_probability=0.5)
    )
    alone = 0
    for index in range(60):
        recipe = mixer.draw(0, index)
        mixture = mixer.render(recipe)
        rest = mixture.noisy.astype(np.float64) - mixture.clean
        babble = np.zeros(16000)
        for row, db in zip(recipe.babble, recipe.voice_db, strict=True):
            assert -6 <= db <= 0
            voice = np.zeros(16000)
            for piece in row:
                part = store.read(piece.clip, piece.clip_start, piece.length).astype(np.float64)
                if piece.segment_start > 0:
                    part[:80] *= np.linspace(0, 1, 80)
                if piece.segment_start + piece.length < 16000:
                    part[-80:] *= np.linspace(1, 0, 80)
                voice[piece.segment_start :][: piece.length] = part
            babble += voice * 10 ** (db / 20) / np.linalg.norm(voice)
        names = [str(store.clips[piece.clip].path) for row in recipe.babble for piece in row]
        assert list(mixture.files[-len(names) :]) == names
        if not recipe.noise:
            alone += 1
            gain = (rest @ babble) / (babble @ babble)
            np.testing.assert_allclose(rest, gain * babble, atol=1e-5)
            assert not any(name.endswith("n.wav") for name in mixture.files)
            continue
        assert -10 <= recipe.babble_db <= 10
        dry = mixer.render(replace(recipe, babble=(), voice_db=()))
        noise = dry.noisy.astype(np.float64) - dry.clean
        shares, *_ = np.linalg.lstsq(np.stack([noise, babble], 1), rest, rcond=None)
        np.testing.assert_allclose(np.stack([noise, babble], 1) @ shares, rest, atol=1e-5)
        ratio = shares[1] / shares[0] * np.linalg.norm(babble) / np.linalg.norm(noise)
        assert 20 * np.log10(ratio) == pytest.approx(recipe.babble_db, abs=0.01)
    assert alone == pytest.approx(30, abs=4 * np.sqrt(60 / 4))


def test_too_few_others_leave_the_noise_as_it_is(tmp_path: Path) -> None:
    few = [clip(tmp_path, who, 1.2, source="a", speaker=who) for who in ("ann", "bob", "cid")]
    few += [clip(tmp_path, f"d{i}", 1.2, source="d", speaker="dan", recording="t") for i in (0, 1)]
    few.append(clip(tmp_path, "eve", 1.2, source="d", speaker="eve", recording="t"))
    store = ClipStore(few, quiet=True)  # ann, bob, cid have four others, dan and eve three
    config = replace(BABBLE, babble_voices=(4, 6))
    mixer, plain = (
        Mixer(store, noise_store(tmp_path), c)
        for c in (config, replace(config, babble_probability=0))
    )
    seen = set()
    for index in range(40):
        recipe = mixer.draw(0, index)
        who = store.clips[recipe.speech[0].clip].speaker
        seen.add(who)
        assert len(recipe.babble) == (0 if who in ("dan", "eve") else 4)
        if not recipe.babble:
            assert recipe == plain.draw(0, index)
    assert len(seen) == 5
    with pytest.raises(EnhanceError, match=r"babble_probability.*5 speakers"):
        Mixer(store, noise_store(tmp_path), replace(BABBLE, babble_voices=(5, 6)))

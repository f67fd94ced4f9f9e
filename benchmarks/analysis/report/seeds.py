"""Every claim of the seeds that speaks of representations, and what decides it here.

The seeds are the notes this project began with (see `benchmarks.analysis.claims`). A verdict holds
for the models, clips and budgets of the records, no further; a claim that no record can decide says
what is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from benchmarks.analysis.report.evidence import (
    Evidence,
    Row,
    Verdict,
    at,
    decided,
    listed,
    paired,
    untestable,
    value,
)
from benchmarks.figures.statistics import Interval
from benchmarks.figures.tables import with_interval

SPEAKER_MODELS = ("ecapa-tdnn", "resemblyzer")
SPEECH_MODELS = ("wavlm", "hubert", "wav2vec2", "wav2vec", "vq-wav2vec")
_PHONES, _SPEAKERS, _SNR = "probe-phone", "probe-verification", "probe-snr"


@dataclass(frozen=True)
class Claim:
    """A sentence of a seed."""

    source: str
    """Number of the seed, and section."""
    text: str
    """What it says."""
    judge: Callable[[Evidence], Verdict]
    """What the records say of it."""


def never(why: str) -> Callable[[Evidence], Verdict]:
    """A claim that nothing here can decide."""
    return lambda evidence: untestable(why)


def first(evidence: Evidence, *families: str) -> str | None:
    """The first backbone of some kinds."""
    found = evidence.of_family(*families)
    return found[0] if found else None


def layers(analysis: str, low: float, high: float, *families: str) -> Callable[[Evidence], Verdict]:
    """The best state of a probe lies within layers of a model of 12."""

    def judge(evidence: Evidence) -> Verdict:
        name = first(evidence, *families)
        if name is None:
            return untestable(f"no {' or '.join(families)} among the backbones")
        return evidence.layers(analysis, name, low / 12, high / 12)

    return judge


# Seed 000: WavLM, wav2vec 2.0, codecs and DANN.


def _two(evidence: Evidence) -> tuple[str, str] | None:
    ours, theirs = first(evidence, "wavlm"), first(evidence, "wav2vec2")
    return None if ours is None or theirs is None else (ours, theirs)


def _codec_states(evidence: Evidence) -> tuple[str, str, list[Row], list[Row]] | str:
    names = _two(evidence)
    if names is None:
        return "needs a WavLM and a wav2vec 2.0 among the backbones"
    own, other = (evidence.codec(name) for name in names)
    return (*names, own, other) if own and other else "needs enhance analyze codec of both"


def less_codec(evidence: Evidence) -> Verdict:
    """Hypothesis 1."""
    found = _codec_states(evidence)
    if isinstance(found, str):
        return untestable(found)
    a, b, own, other = found
    means = [float(np.mean([row["mean"] for row in rows])) for rows in (own, other)]
    apart = sum(r["high"] < s["low"] for r, s in zip(own[1:], other[1:], strict=False))
    text = f"accuracy, mean over states: {listed({a: means[0], b: means[1]})}; below with "
    text += f"intervals apart in {apart} of {min(len(own), len(other)) - 1} states"
    return decided(means[0] < means[1] and apart > 0, text)


def even_codec(evidence: Evidence) -> Verdict:
    """Hypotheses 2 and 3."""
    found = _codec_states(evidence)
    if isinstance(found, str):
        return untestable(found)
    a, b, own, other = found
    ranges = {
        name: max(row["mean"] for row in rows) - min(row["mean"] for row in rows)
        for name, rows in ((a, own), (b, other))
    }
    return decided(ranges[a] < ranges[b], f"range of accuracy over states: {listed(ranges)}")


def _better(
    evidence: Evidence, backbone: str, setting: str, over: str
) -> tuple[Interval, str] | None:
    less, more = (evidence.eers(backbone, name) for name in (setting, over))
    found = paired(less, more)
    if found is None:
        return None
    text = f"{backbone}: EER of {over} less that of {setting} {value(found.row())}, {found.n} seeds"
    return found, text


def adversarial(family: str, better: bool) -> Callable[[Evidence], Verdict]:
    """DANN has a lower (or higher) EER than ERM."""

    def judge(evidence: Evidence) -> Verdict:
        found = [
            made
            for name in evidence.of_family(family)
            if (made := _better(evidence, name, "dann", "erm"))
        ]
        if not found:
            return untestable(f"needs enhance dann evaluate of a {family}, 3 seeds of both")
        holds = all((i.low or 0) > 0 if better else (i.high or 0) < 0 for i, _ in found)
        return decided(holds, "; ".join(text for _, text in found))

    return judge


def recommended(setting: str) -> Callable[[Evidence], Verdict]:
    """A recommendation lowers the EER of DANN."""

    def judge(evidence: Evidence) -> Verdict:
        found = [
            made for name in evidence.families if (made := _better(evidence, name, setting, "dann"))
        ]
        if not found:
            return untestable(f"needs enhance dann evaluate of {setting} and dann, 3 seeds of both")
        holds = all((interval.low or 0) > 0 for interval, _ in found)
        return decided(holds, "; ".join(text for _, text in found))

    return judge


# Seed 003: speech and speaker models.


def no_guarantee(evidence: Evidence) -> Verdict:
    """Better phones, no better speakers."""
    best = {
        name: (phones[0], speakers[0])
        for name in evidence.families
        if (phones := evidence.best(_PHONES, name)) and (speakers := evidence.best(_SPEAKERS, name))
    }
    if len(best) < 2:
        return untestable("needs phone and verification probes of two models")
    for (a, (phone, eer)), (b, (other_phone, other_eer)) in permutations(best.items(), 2):
        if phone["low"] > other_phone["high"] and eer["mean"] >= other_eer["mean"]:
            text = f"{a} tells phones better than {b} ({value(phone)}, {value(other_phone)}), "
            return decided(True, f"{text}speakers not (EER {value(eer)}, {value(other_eer)})")
    return decided(False, "what tells phones better tells speakers better, in every pair")


def early_phones(evidence: Evidence) -> Verdict:
    """Speaker models hold phones earlier than speech models."""
    depths = {}
    for families in (SPEAKER_MODELS, SPEECH_MODELS):
        found = {
            name: best[1]
            for name in evidence.of_family(*families)
            if (best := evidence.best(_PHONES, name))
        }
        if not found:
            return untestable(f"needs a phone probe of a model of {', '.join(families)}")
        depths[families] = found
    own, other = depths[SPEAKER_MODELS], depths[SPEECH_MODELS]
    text = f"depth of the best state for phones: {listed(own, 2)}; {listed(other, 2)}"
    return decided(max(own.values()) < min(other.values()), text)


def deep_alone(evidence: Evidence) -> Verdict:
    """Deep states of speech models are like none of a speaker model."""
    ssl, speaker = first(evidence, *SPEECH_MODELS), first(evidence, *SPEAKER_MODELS)
    if ssl is None or speaker is None:
        return untestable("needs a speech model and a speaker model")
    nearest: dict[int, Row] = {}
    for row in evidence.rows("cka"):
        ends = [(row["backbone_a"], row["state_a"]), (row["backbone_b"], row["state_b"])]
        for (a, state), (b, _) in (ends, ends[::-1]):
            if (a, b) == (ssl, speaker) and row["cka"] > nearest.get(state, {"cka": -2})["cka"]:
                nearest[state] = row
    if len(nearest) < 3:
        return untestable(f"needs enhance analyze cka of {ssl} with {speaker}")
    third = max(len(nearest) // 3, 1)
    low, deep = ([nearest[k] for k in sorted(nearest)[part]]
                 for part in (slice(third), slice(-third, None)))  # fmt: skip
    top = [max(part, key=lambda row: row["cka"]) for part in (low, deep)]
    figures = [with_interval({**row, "mean": row["cka"]}, 2) for row in top]
    text = f"largest CKA with any state of {speaker}: {figures[0]} in the first third of {ssl}, "
    return decided(top[1]["high"] < top[0]["low"], f"{text}{figures[1]} in the last")


# Seed 004: wav2vec 2.0 embeddings for enhancement.


def _teacher(evidence: Evidence) -> tuple[str, int] | None:
    """The backbone the claim is of, and its last state; wav2vec 2.0 where there is one."""
    name = first(evidence, "wav2vec2") or first(evidence, *SPEECH_MODELS)
    rows = evidence.rows("temporal", backbone=name, quantity="raw", heard="clean")
    return (name, max(row["state"] for row in rows)) if name and rows else None


def correlated(heard: str) -> Callable[[Evidence], Verdict]:
    """Correlation is more than half of that at lag 0 up to 60 ms."""

    def judge(evidence: Evidence) -> Verdict:
        teacher = _teacher(evidence)
        if teacher is None:
            return untestable("needs enhance analyze temporal of a speech model")
        parts, holds = [], True
        for quantity in ("raw", "centred"):
            curve = evidence.curve(*teacher, quantity, heard)
            if curve is None:
                return untestable(f"needs enhance analyze temporal with {heard} clips")
            half, low = curve["half_mean"], curve["half_low"]
            holds = holds and (half is None or (low is not None and low >= 60))
            shown = "beyond the largest lag" if half is None else f"at {half:.0f} ms"
            parts.append(f"{quantity}: {at(curve, 0):.2f} at 0 ms, {at(curve, 60):.2f} at 60 ms, "
                         f"half {shown}")  # fmt: skip
        name, state = teacher
        return decided(holds, f"{name}, state {state}, {heard} with clean; " + "; ".join(parts))

    return judge


def equal_distance(evidence: Evidence) -> Verdict:
    """Frames far apart differ little more than those of 60 ms."""
    teacher = _teacher(evidence)
    curve = teacher and evidence.curve(*teacher, "distance")
    if not teacher or not curve:
        return untestable("needs enhance analyze temporal of a speech model")
    near, far = at(curve, 60), at(curve, curve["lags_ms"][-1])
    text = f"{teacher[0]}, state {teacher[1]}: distance {far / near:.2f} times that of 60 ms at "
    return decided(far / near < 1.25, f"{text}{curve['lags_ms'][-1]:.0f} ms (bound 1.25)")


def phones_not_quality(evidence: Evidence) -> Verdict:
    """More than log-mel knows of phones, no more of the SNR."""
    name = first(evidence, *SPEECH_MODELS)
    gains = [name and evidence.gain(task, name, "log-mel") for task in (_PHONES, _SNR)]
    if name is None or not all(gains):
        return untestable("needs phone and SNR probes of a speech model")
    phones, snr = (gain for gain in gains if isinstance(gain, dict))
    text = f"{name}, best state over log-mel: phones {value(phones)}, SNR {value(snr)} dB"
    return decided(phones["low"] > 0 and snr["low"] <= 0, text)


def adds_little(*modes: str) -> Callable[[Evidence], Verdict]:
    """No mode is better than the plain one by more than .05 PESQ or .5 dB."""

    def judge(evidence: Evidence) -> Verdict:
        found = {name: row for name, row in evidence.trials() if name in modes}
        if not found:
            return untestable("needs --study DIR of enhance compare with these modes")
        bounds = {"pesq_wb": 0.05, "si_sdr": 0.5}
        holds = all(row[key]["high"] < bound for row in found.values()
                    for key, bound in bounds.items())  # fmt: skip
        text = "; ".join(
            f"{name}: PESQ {value(row['pesq_wb'])}, SI-SDR {value(row['si_sdr'])} dB"
            for name, row in found.items()
        )
        return decided(holds, f"less base, {text} (bounds .05, .5 dB)")

    return judge


def intelligible(evidence: Evidence) -> Verdict:
    """Speech reconstructed from embeddings has a WER below 20 %."""
    rows = [row for row in evidence.rows("reconstruct", method_kind="teacher") if row.get("wer")]
    if not rows:
        return untestable("needs enhance analyze reconstruct with a recogniser")
    rates = {row["method"]: row["wer"]["mean"] for row in rows}
    return decided(min(rates.values()) < 0.2, f"word error rate: {listed(rates)}")


def without_treble(evidence: Evidence) -> Verdict:
    """Reconstruction loses the upper band, more than a control does."""
    rows = evidence.rows("reconstruct", method_kind="teacher")
    key = "spectrum high"
    found = [row for row in rows if key in row["metrics"]]
    if not found:
        return untestable("needs enhance analyze reconstruct")
    best = max(found, key=lambda row: row["metrics"][key]["mean"])
    over = next((d[key] for name, d in best["differences"].items() if name.startswith("log-mel")),
                None)  # fmt: skip
    text = f"{best['method']}: 4-8 against 0-4 kHz {value(best['metrics'][key])} dB"
    if over is None:
        return untestable(f"{text}; no control of log-mel")
    return decided(over["high"] < 0, f"{text}; less log-mel {value(over)} dB")


CLAIMS = (
    Claim("000, summary", "DANN betters ERM for WavLM", adversarial("wavlm", better=True)),
    Claim("000, summary", "DANN worsens wav2vec 2.0", adversarial("wav2vec2", better=False)),
    Claim("000, hypothesis 1", "WavLM tells less of the codec than wav2vec 2.0", less_codec),
    Claim("000, hypothesis 2", "WavLM spreads the codec more evenly over layers", even_codec),
    Claim("000, hypothesis 3", "wav2vec 2.0 has it in few layers", even_codec),
    Claim("000, hypothesis 4", "gradients flow more smoothly through gated attention",
          never("no analysis here measures it, and the seed gives no figure")),
    Claim("000, 3.1", "the first half of the states betters DANN", recommended("first-k")),
    Claim("000, 3.2", "unfreezing the upper blocks betters DANN", recommended("unfreeze")),
    Claim("000, 3.3", "stronger reversal (.05 to 2) betters DANN", recommended("lambda")),
    Claim("000, 3.4", "a deeper discriminator betters DANN", recommended("discriminator")),
    Claim("000, 3.5", "attention pooling betters DANN", recommended("attention")),
    Claim("001, table", "phones: layers 4-6 of 12", layers(_PHONES, 4, 6, "wavlm")),
    Claim("001, text", "phones: layers 5-8 of 12", layers(_PHONES, 5, 8, "wavlm")),
    Claim("001, table", "speaker verification: layers 4-6", layers(_SPEAKERS, 4, 6, "wavlm")),
    Claim("001, table", "intent: layers 10-12", layers("probe-intent", 10, 12, "wavlm")),
    Claim("001, text", "pitch, formants: layers 1-4", layers("probe-pitch", 1, 4, "wavlm")),
    Claim("001, table", "emotion: layers 8-12", never("no clips labelled by emotion here")),
    Claim("001, text", "words: layers 9-12", layers("probe-keyword", 9, 12, "wavlm")),
    Claim("003, finding 1", "better for other tasks is not better for speakers", no_guarantee),
    Claim("003, finding 2", "speaker models hold phones early", early_phones),
    Claim("003, finding 3", "deep states of speech models have no like in speaker models",
          deep_alone),
    Claim("003, question 1", "language: about layer 11 of 12",
          layers("probe-language", 10, 12, "wavlm")),
    Claim("003, question 2", "the 4th layer of speaker models stands out",
          layers(_SPEAKERS, 4 * 12 / 5, 4 * 12 / 5, "ecapa-tdnn")),
    Claim("003, question 3", "labels make better speaker models than DINO",
          never("needs both of one network on one corpus; benchmarks/TEACHERS.md has their EER")),
    Claim("004, mechanism 1", "states say what is spoken, not how well", phones_not_quality),
    Claim("004, section 3.4", "frames correlate highly up to 60 ms", correlated("clean")),
    Claim("004, section 3.4", "noisy with clean alike", correlated("noisy")),
    Claim("004, section 3.4", "distances hardly grow within an utterance", equal_distance),
    Claim("004, result", "concatenation and distillation add very little",
          adds_little("concat", "distill")),
    Claim("004, mechanism 3", "pre-training of the encoder adds nothing", adds_little("pretrain")),
    Claim("004, section 3.3", "reconstructed speech is understood (WER below 20 %)", intelligible),
    Claim("004, section 3.3", "it lacks high frequencies", without_treble),
    Claim("004, question 1", "phonetic features can serve enhancement",
          never("needs a method that the seed does not name")),
    Claim("004, question 2", "other self-supervised models serve better",
          never("needs a study of modes with published weights of several models")),
    Claim("004, question 3", "another GCRN uses states better",
          never("benchmarks/WIDTHS.md compares two widths only")),
)  # fmt: skip
"""All of them, in the order of the seeds."""

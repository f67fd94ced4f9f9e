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
    Untestable,
    Verdict,
    decided,
    listed,
    need,
    paired,
)
from benchmarks.figures.seeds import ENOUGH, compared_seeds
from benchmarks.figures.tables import with_interval as value

SPEAKER_MODELS = ("ecapa-tdnn", "resemblyzer")
SPEECH_MODELS = ("wavlm", "hubert", "wav2vec2", "wav2vec", "vq-wav2vec")
_PHONES, _SPEAKERS, _SNR = "probe-phone", "probe-verification", "probe-snr"


Judge = Callable[[Evidence], Verdict]
"""What the records say of a claim; raises `Untestable`."""


@dataclass(frozen=True)
class Claim:
    """A sentence of a seed."""

    source: str
    """Number of the seed, and section."""
    text: str
    """What it says."""
    decide: Judge
    """By the records."""

    def judge(self, evidence: Evidence) -> Verdict:
        """The verdict, which may be that nothing here can decide."""
        try:
            return self.decide(evidence)
        except Untestable as missing:
            return Verdict("not testable here", str(missing))


def never(why: str) -> Judge:
    """A claim that nothing here can decide."""
    return lambda evidence: need(None, why)


def first(evidence: Evidence, *families: str) -> str:
    """The first backbone of some kinds."""
    missing = f"no {' or '.join(families)} among the backbones"
    return need(evidence.of_family(*families), missing)[0]


def layers(analysis: str, low: float, high: float, *families: str) -> Judge:
    """The best state of a probe lies within layers of a model of 12."""
    return lambda evidence: evidence.layers(
        analysis, first(evidence, *families), low / 12, high / 12
    )


# Seed 000: WavLM, wav2vec 2.0, codecs and DANN.


def _codec_states(evidence: Evidence) -> dict[str, list[Row]]:
    """Accuracy on all codecs of each state, of the WavLM, then of the wav2vec 2.0."""
    found = {}
    for name in [first(evidence, family) for family in ("wavlm", "wav2vec2")]:
        rows = evidence.rows("codec", kind="probe", task="all", backbone=name)
        states = [row for row in rows if str(row["state"]).isdecimal()]
        found[name] = need(states, "needs enhance analyze codec of both")
    return found


def less_codec(evidence: Evidence) -> Verdict:
    """Hypothesis 1."""
    states = _codec_states(evidence)
    means = {name: float(np.mean([row["mean"] for row in own])) for name, own in states.items()}
    own, other = states.values()
    apart = sum(r["high"] < s["low"] for r, s in zip(own[1:], other[1:], strict=False))
    text = f"accuracy, mean over states: {listed(means)}; below with "
    text += f"intervals apart in {apart} of {min(len(own), len(other)) - 1} states"
    ours, theirs = means.values()
    return decided(ours < theirs and apart > 0, text)


def even_codec(evidence: Evidence) -> Verdict:
    """Hypotheses 2 and 3."""
    ranges = {name: max(row["mean"] for row in rows) - min(row["mean"] for row in rows)
              for name, rows in _codec_states(evidence).items()}  # fmt: skip
    ours, theirs = ranges.values()
    return decided(ours < theirs, f"range of accuracy over states: {listed(ranges)}")


def lower_eer(setting: str, over: str = "dann", family: str = "", better: bool = True) -> Judge:
    """One setting of the adversarial training has a lower (or higher) EER than another."""

    def judge(evidence: Evidence) -> Verdict:
        texts, holds = [], True
        for name in evidence.of_family(family) if family else evidence.families:
            found = paired(evidence.eers(name, setting), evidence.eers(name, over))
            if found is None:
                continue
            holds = holds and ((found.low or 0) > 0 if better else (found.high or 0) < 0)
            texts.append(f"{name}: EER of {over} less that of {setting} {value(found.row())}, "
                         f"{found.n} seeds")  # fmt: skip
        whose = f" of a {family}" if family else ""
        needed = f"needs enhance dann evaluate{whose}, 3 seeds of both {setting} and {over}"
        return decided(holds, "; ".join(need(texts, needed)))

    return judge


# Seed 003: speech and speaker models.


def no_guarantee(evidence: Evidence) -> Verdict:
    """Better phones, no better speakers."""
    best = {
        name: (phones[0], speakers[0])
        for name in evidence.families
        if (phones := evidence.best(_PHONES, name)) and (speakers := evidence.best(_SPEAKERS, name))
    }
    need(len(best) > 1, "needs phone and verification probes of two models")
    for (a, (phone, eer)), (b, (other_phone, other_eer)) in permutations(best.items(), 2):
        if phone["low"] > other_phone["high"] and eer["mean"] >= other_eer["mean"]:
            text = f"{a} tells phones better than {b} ({value(phone)}, {value(other_phone)}), "
            return decided(True, f"{text}speakers not (EER {value(eer)}, {value(other_eer)})")
    return decided(False, "what tells phones better tells speakers better, in every pair")


def early_phones(evidence: Evidence) -> Verdict:
    """Speaker models hold phones earlier than speech models."""
    own, other = (
        need(
            {
                name: best[1]
                for name in evidence.of_family(*families)
                if (best := evidence.best(_PHONES, name))
            },
            f"needs a phone probe of a model of {', '.join(families)}",
        )
        for families in (SPEAKER_MODELS, SPEECH_MODELS)
    )
    text = f"depth of the best state for phones: {listed(own, 2)}; {listed(other, 2)}"
    return decided(max(own.values()) < min(other.values()), text)


def deep_alone(evidence: Evidence) -> Verdict:
    """Deep states of speech models are like none of a speaker model."""
    ssl, speaker = first(evidence, *SPEECH_MODELS), first(evidence, *SPEAKER_MODELS)
    nearest: dict[int, Row] = {}
    for row in evidence.rows("cka"):
        ends = [(row["backbone_a"], row["state_a"]), (row["backbone_b"], row["state_b"])]
        for (a, state), (b, _) in (ends, ends[::-1]):
            if (a, b) == (ssl, speaker) and row["cka"] > nearest.get(state, {"cka": -2})["cka"]:
                nearest[state] = row
    need(len(nearest) > 2, f"needs enhance analyze cka of {ssl} with {speaker}")
    third = max(len(nearest) // 3, 1)
    low, deep = ([nearest[k] for k in sorted(nearest)[part]]
                 for part in (slice(third), slice(-third, None)))  # fmt: skip
    top = [max(part, key=lambda row: row["cka"]) for part in (low, deep)]
    figures = [value({**row, "mean": row["cka"]}, 2) for row in top]
    text = f"largest CKA with any state of {speaker}: {figures[0]} in the first third of {ssl}, "
    return decided(top[1]["high"] < top[0]["low"], f"{text}{figures[1]} in the last")


# Seed 004: wav2vec 2.0 embeddings for enhancement.


def _at(curve: Row, milliseconds: float) -> float:
    """On a straight line between frames."""
    return float(np.interp(milliseconds, curve["lags_ms"], curve["mean"]))


def _curves(evidence: Evidence, heard: str, *quantities: str) -> tuple[str, int, list[Row]]:
    """Of the backbone the claim is of (wav2vec 2.0 where there is one), in its last state, at the
    lowest SNR.
    """
    needed = f"needs enhance analyze temporal of a speech model with {heard} clips"
    names = evidence.of_family("wav2vec2") + evidence.of_family(*SPEECH_MODELS)
    name = need(names, needed)[0]
    rows = need(evidence.rows("temporal", backbone=name), needed)
    state = max(row["state"] for row in rows)
    curves = []
    for quantity in quantities:
        wanted = {"state": state, "heard": heard, "quantity": quantity}
        found = [row for row in rows if row.items() >= wanted.items()]
        curves.append(min(need(found, needed), key=lambda row: row["snr_db"] or 0))
    return name, state, curves


def correlated(heard: str) -> Judge:
    """Correlation is more than half of that at lag 0 up to 60 ms."""

    def judge(evidence: Evidence) -> Verdict:
        name, state, curves = _curves(evidence, heard, "raw", "centred")
        parts, holds = [], True
        for curve in curves:
            half, low = curve["half_mean"], curve["half_low"]
            # None lies beyond the largest lag; the lower end may be near where the mean is not
            holds = holds and (low is None or low >= 60)
            shown = "beyond the largest lag" if half is None else f"at {half:.0f} ms"
            parts.append(f"{curve['quantity']}: {_at(curve, 0):.2f} at 0 ms, "
                         f"{_at(curve, 60):.2f} at 60 ms, half {shown}")  # fmt: skip
        return decided(holds, f"{name}, state {state}, {heard} with clean; " + "; ".join(parts))

    return judge


def equal_distance(evidence: Evidence) -> Verdict:
    """Frames far apart differ little more than those of 60 ms."""
    name, state, [curve] = _curves(evidence, "clean", "distance")
    near, far = _at(curve, 60), _at(curve, curve["lags_ms"][-1])
    text = f"{name}, state {state}: distance {far / near:.2f} times that of 60 ms at "
    return decided(far / near < 1.25, f"{text}{curve['lags_ms'][-1]:.0f} ms (bound 1.25)")


def phones_not_quality(evidence: Evidence) -> Verdict:
    """More than log-mel knows of phones, no more of the SNR."""
    name = first(evidence, *SPEECH_MODELS)
    phones, snr = (
        need(evidence.gain(task, name, "log-mel"), "needs phone and SNR probes of a speech model")
        for task in (_PHONES, _SNR)
    )
    text = f"{name}, best state over log-mel: phones {value(phones)}, SNR {value(snr)} dB"
    return decided(phones["low"] > 0 and snr["low"] <= 0, text)


def adds_little(*modes: str) -> Judge:
    """No mode is better than the plain one by more than .05 PESQ or .5 dB."""
    bounds = {"pesq_wb": 0.05, "si_sdr": 0.5}

    def judge(evidence: Evidence) -> Verdict:
        rows = [row for row in evidence.study if row["kind"] == "trial-mean"]
        found = {row["name"]: row["difference"] for row in rows
                 if row["name"] in modes and row.get("difference")}  # fmt: skip
        need(found, "needs --study DIR of enhance compare with these modes")
        told = all(len(compared_seeds(row)) >= ENOUGH for row in rows if row["name"] in found)
        need(told, f"needs {ENOUGH} seeds of these modes")
        parts: list[tuple[Row, float]] = [
            (row[key] or {}, bound) for row in found.values() for key, bound in bounds.items()
        ]
        needed = "needs PESQ and SI-SDR of two clips or more of these modes"
        need(all(part.get("high") is not None for part, _ in parts), needed)
        holds = all(part["high"] < bound for part, bound in parts)
        text = "; ".join(
            f"{name}: PESQ {value(row['pesq_wb'])}, SI-SDR {value(row['si_sdr'])} dB"
            for name, row in found.items()
        )
        return decided(holds, f"less base, {text} (bounds .05, .5 dB)")

    return judge


def intelligible(evidence: Evidence) -> Verdict:
    """Speech reconstructed from embeddings has a WER below 20 %."""
    rows = [row for row in evidence.rows("reconstruct", method_kind="teacher") if row.get("wer")]
    need(rows, "needs enhance analyze reconstruct with a recogniser")
    rates = {row["method"]: row["wer"]["mean"] for row in rows}
    return decided(min(rates.values()) < 0.2, f"word error rate: {listed(rates)}")


def without_treble(evidence: Evidence) -> Verdict:
    """Reconstruction loses the upper band, more than a control does."""
    rows, key = evidence.rows("reconstruct", method_kind="teacher"), "spectrum high"
    found = [row for row in rows if key in row["metrics"]]
    need(found, "needs enhance analyze reconstruct")
    best = max(found, key=lambda row: row["metrics"][key]["mean"])
    text = f"{best['method']}: 4-8 against 0-4 kHz {value(best['metrics'][key])} dB"
    controls = best["differences"].items()
    ours = next((d.get(key) for name, d in controls if name.startswith("log-mel")), None)
    over = need(ours, f"{text}; no control of log-mel")
    need(over["high"] is not None, f"{text}; needs two clips or more, one gives no interval")
    return decided(over["high"] < 0, f"{text}; less log-mel {value(over)} dB")


CLAIMS = (
    Claim("000, summary", "DANN betters ERM for WavLM", lower_eer("dann", "erm", "wavlm")),
    Claim("000, summary", "DANN worsens wav2vec 2.0",
          lower_eer("dann", "erm", "wav2vec2", better=False)),
    Claim("000, hypothesis 1", "WavLM tells less of the codec than wav2vec 2.0", less_codec),
    Claim("000, hypothesis 2", "WavLM spreads the codec more evenly over layers", even_codec),
    Claim("000, hypothesis 3", "wav2vec 2.0 has it in few layers", even_codec),
    Claim("000, hypothesis 4", "gradients flow more smoothly through gated attention",
          never("no analysis here measures it, and the seed gives no figure")),
    Claim("000, 3.1", "the first half of the states betters DANN", lower_eer("first-k")),
    Claim("000, 3.2", "unfreezing the upper blocks betters DANN", lower_eer("unfreeze")),
    Claim("000, 3.3", "stronger reversal (.05 to 2) betters DANN", lower_eer("lambda")),
    Claim("000, 3.4", "a deeper discriminator betters DANN", lower_eer("discriminator")),
    Claim("000, 3.5", "attention pooling betters DANN", lower_eer("attention")),
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

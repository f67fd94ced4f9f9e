"""What listeners would say of a clip, by networks: DNSMOS P.835 and DistillMOS, from 1 to 5.

No clean reference is asked for. The networks of DNSMOS (of speech, background and both) are those
of the ``speechmos`` package (MIT), run here by ONNX Runtime: the package's own module imports
librosa, pandas and requests for a fourth figure (P.808) that is not used here. DistillMOS is the
package ``distillmos`` (MIT), whose networks and training were others: a second judge of what was
trained by the first. The figures are the packages', but see `dnsmos` of clips of 17 s and more.

Sources: Reddy, Gopal, Cutler, "DNSMOS P.835", ICASSP 2022; Stahl and Gamper, "Distillation and
Pruning for Scalable Self-Supervised Representation-Based Speech Quality Assessment", ICASSP 2025.
"""

from __future__ import annotations

import contextlib
import io
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from enhance.errors import EnhanceError, require

if TYPE_CHECKING:
    from onnxruntime import InferenceSession
    from torch import nn

DNSMOS = ("dnsmos_ovrl", "dnsmos_sig", "dnsmos_bak")
"""Names of the three figures: both together, speech, background; mean opinions from 1 to 5."""

DISTILLMOS = "distillmos"
"""Name of DistillMOS' figure."""

SAMPLE_RATE = 16000
SEGMENT = int(9.01 * SAMPLE_RATE)
"""Samples that the network hears at once."""

MAPS = {
    "dnsmos_sig": (-0.08397278, 1.22083953, 0.0052439),
    "dnsmos_bak": (-0.13166888, 1.60915514, -0.39604546),
    "dnsmos_ovrl": (-0.06766283, 1.11546468, 0.04602535),
}
"""Polynomials from the network's outputs, in their order, to opinions; the highest power first."""


@cache
def _network() -> InferenceSession:
    require("bench", "speechmos")
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    path = files("speechmos") / "dnsmos_models" / "sig_bak_ovr.onnx"
    return InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@cache
def _judge() -> nn.Module:
    require("teachers", "distillmos", "xls_r_sqa")
    with contextlib.redirect_stdout(io.StringIO()):  # it tells where its weights lie
        from distillmos import ConvTransformerSQAModel

        return ConvTransformerSQAModel().eval()


def _heard(name: str, wave: Any, sample_rate: int) -> np.ndarray:
    """The samples of a clip (N,) as a file would hold them, within full scale."""
    if sample_rate != SAMPLE_RATE:
        raise EnhanceError(f"{name}: {sample_rate} Hz (defined at {SAMPLE_RATE} Hz); resample it")
    audio = np.asarray(wave, dtype=np.float32)
    if audio.ndim != 1 or not audio.size or not np.isfinite(audio).all():
        raise EnhanceError(f"{name}: needs finite samples (N,), N >= 1; this has {audio.shape}")
    return np.clip(audio, -1, 1)


def distillmos(wave: Any, sample_rate: int = SAMPLE_RATE) -> float:
    """Opinion of one clip (N,): the mean over windows of 7.68 s, zeros after a shorter clip.

    Samples beyond full scale are clipped, as a file would hold them. Errors are those of `dnsmos`.
    """
    audio = _heard(DISTILLMOS, wave, sample_rate)
    import torch

    with torch.inference_mode():
        return float(_judge()(torch.from_numpy(audio)[None]))


def dnsmos(wave: Any, sample_rate: int = SAMPLE_RATE) -> dict[str, float]:
    """Figures of one clip (N,), by the names of `DNSMOS`: means over segments of 9.01 s.

    One segment begins every second. A clip shorter than one is doubled until it is longer, as in
    the package. That leaves out, by a rounding, the segments that begin at 7 to 23 s: a clip (or
    a doubled one) of 17 s and more is heard whole here, by the package up to 16 s. Segments that
    begin at the same sample of a repeated clip are equal and computed once. Samples beyond full
    scale are clipped, as a file would hold them.

    Raises
    ------
    EnhanceError
        If the sample rate is not 16 kHz, the shape is not (N,) with N >= 1, a sample is not
        finite, or speechmos is missing.
    """
    audio = _heard("dnsmos", wave, sample_rate)
    own = audio.size
    while audio.size < SEGMENT:
        audio = np.append(audio, audio)
    starts = np.arange(int(audio.size // SAMPLE_RATE - 9.01) + 1) * SAMPLE_RATE
    starts = starts[starts + SEGMENT <= audio.size]
    different, index = np.unique(starts % own, return_inverse=True)
    network = _network()
    raw = np.concatenate(
        [network.run(None, {"input_1": audio[None, s : s + SEGMENT]})[0] for s in different]
    )  # (S, 3)
    opinions = {
        name: np.polyval(powers, raw[:, column])[index].mean()
        for column, (name, powers) in enumerate(MAPS.items())
    }
    return {name: float(opinions[name]) for name in DNSMOS}

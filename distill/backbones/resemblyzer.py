"""The speaker encoder of Resemblyzer as a frozen teacher: weights of the package 0.1.4.

Wan, Wang, Papir and Moreno, "Generalized end-to-end loss for speaker verification" (ICASSP 2018):
three LSTM layers of 256 over 40 mel energies (power, no logarithm), 25 ms every 10 ms, trained on
1.6 s at a time. Front end and LSTM are built here, the linear layer to the embedding left out; of
the package only the file of weights is read, none of its code (or of librosa and webrtcvad, which
that imports) runs.

State 0 is the mel energies, states 1 to 3 are those of the LSTM layers. Each looks back to the
start of what it hears and never ahead: the teacher is causal, and a recording beyond 30 s is
remembered for 4 s at a cut (`distill.teacher.windows`).

The level counts, as no logarithm evens it out. The package raises recordings below -30 dBFS to
that level and cuts silence before it listens; here a clip is heard as it is, since the first
would look ahead and the second would move frames.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.backbones.folder import read_weights
from distill.backbones.frozen import FrozenTeacher, fingerprint
from enhance.errors import require
from enhance.network.tensors import load_exactly

SAMPLE_RATE = 16000
FIELD, STRIDE = 400, 160
BANDS, WIDTH, LAYERS = 40, 256, 3


class Resemblyzer(nn.Module):
    """Mel energies and LSTM layers."""

    bank: Tensor

    def __init__(self) -> None:
        super().__init__()
        require("train", "torchaudio")
        from torchaudio.functional import melscale_fbanks

        bank = melscale_fbanks(
            FIELD // 2 + 1, 0.0, SAMPLE_RATE / 2, BANDS, SAMPLE_RATE, "slaney", "slaney"
        )
        self.register_buffer("bank", bank, persistent=False)
        self.layers = nn.ModuleList(
            nn.LSTM(WIDTH if i else BANDS, WIDTH, batch_first=True) for i in range(LAYERS)
        )

    def forward(self, waves: Tensor) -> list[Tensor]:
        """Mel energies of every whole field, and what each layer makes of them.

        Shape: (B, N) -> (B, T', 40), then 3 times (B, T', 256)
        """
        window = torch.hann_window(FIELD, device=waves.device)
        spec = torch.fft.rfft(waves.unfold(-1, FIELD, STRIDE) * window)
        states = [spec.abs().square() @ self.bank]
        for layer in self.layers:
            states.append(layer(states[-1])[0])
        return states


class ResemblyzerTeacher(FrozenTeacher):
    """A frozen `Resemblyzer`; ``left_pad`` is field - stride = 240 for None, 200 in the package."""

    family = "resemblyzer"
    causal = True

    def __init__(self, model: Resemblyzer, name: str, left_pad: int | None = None) -> None:
        super().__init__(
            model,
            name,
            field_samples=FIELD,
            stride_samples=STRIDE,
            widths=(BANDS, *[WIDTH] * LAYERS),
            equal_lengths_only=False,
            left_pad=left_pad,
        )
        self.fingerprint = fingerprint(["resemblyzer", self.left_pad], self.model.state_dict())

    def run(self, clips: list[Tensor]) -> list[Tensor]:
        """States of clips of any lengths: zeros behind a clip come after all its frames."""
        waves = nn.utils.rnn.pad_sequence(clips, batch_first=True)
        states: list[Tensor] = self.model(F.pad(waves, (self.left_pad, 0)))
        return states


def load(path: Path, name: str, left_pad: int | None = None) -> ResemblyzerTeacher:
    """Load the teacher from the package's file of weights; see `distill.backbones.load`."""
    own = {}
    for key, tensor in read_weights(path, "model_state").items():
        part, _, rest = key.partition(".")  # such as lstm.weight_ih_l2
        if part == "lstm":
            kind, _, layer = rest.rpartition("_l")
            own[f"layers.{layer}.{kind}_l0"] = tensor
    model = Resemblyzer()
    load_exactly(model, own, str(path))
    return ResemblyzerTeacher(model, name, left_pad)

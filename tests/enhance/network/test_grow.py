"""A larger network that begins as a smaller one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from enhance.config import GcrnConfig, ModelConfig
from enhance.errors import EnhanceError
from enhance.network.checkpoint import CheckpointInfo, save_model, start_from
from enhance.network.waveform_model import WaveformModel
from enhance.stft import FRAMINGS

SMALL = GcrnConfig((4, 6, 8), "lstm", 8, rnn_layers=1, bottleneck="dual_path", level_frames=9)
LARGER = {"channels": (6, 10, 12), "hidden": 12, "rnn_layers": 3}


def used(config: GcrnConfig, folder: Path) -> WaveformModel:
    """A saved model whose weights and statistics are nobody's first ones."""
    torch.manual_seed(0)
    model = WaveformModel(ModelConfig(FRAMINGS["32-16"], config))
    for x in (*model.parameters(), *model.buffers()):
        if x.is_floating_point() and x is not model.stft.basis and x is not model.stft.weight:
            x.data += 0.3 * torch.rand_like(x)
    save_model(folder, model, CheckpointInfo(model.config))
    return model.eval()


@pytest.mark.parametrize(
    "kind", [{}, {"cell": "gru"}, {"decoders": 1, "kernel_frames": 2, "output": "magnitude_phase"}]
)
def test_it_has_the_smaller_ones_output_and_learns_with_all_it_has(
    kind: dict[str, Any], tmp_path: Path
) -> None:
    small = used(replace(SMALL, **kind), tmp_path)
    config = replace(small.config, gcrn=replace(small.config.gcrn, **LARGER))
    large = WaveformModel(config)
    start_from(large, config, tmp_path)
    noisy = 0.1 * torch.randn(2, 8000)
    expected = small.enhance(noisy)
    assert expected.std() > 1e-3
    torch.testing.assert_close(large.eval().enhance(noisy), expected, atol=1e-6, rtol=1e-4)
    optimizer = torch.optim.Adam(large.parameters(), 1e-3)
    for _ in range(2):  # the first lets what is new be heard, the second moves it
        before = {name: x.detach().clone() for name, x in large.named_parameters()}
        optimizer.zero_grad()
        large.train().enhance(noisy).square().mean().backward()
        optimizer.step()
    still = [name for name, x in large.named_parameters() if torch.equal(x, before[name])]
    assert not [name for name in still if ".norm" not in name and "bias" not in name]
    assert not torch.allclose(large.eval().enhance(noisy), expected, atol=1e-6)


def test_one_of_fewer_blocks_begins_as_the_first_of_them(tmp_path: Path) -> None:
    deep = used(replace(SMALL, rnn_layers=2), tmp_path)
    config = replace(deep.config, gcrn=replace(SMALL, hidden=12))
    short = WaveformModel(config)
    start_from(short, config, tmp_path)
    # What would be the same if the second block did nothing.
    silent = deep.state_dict()
    for name in ("time_norm", "mix_norm"):
        silent[f"network.rnns.1.{name}.weight"].zero_()
        silent[f"network.rnns.1.{name}.bias"].zero_()
    deep.load_state_dict(silent)
    noisy = 0.1 * torch.randn(2, 8000)
    expected = deep.enhance(noisy)
    torch.testing.assert_close(short.eval().enhance(noisy), expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("large", "message"),
    [
        ({"hidden": 4}, r"gcrn\.hidden is 8 there, 4 here"),
        ({"channels": (6, 4, 12)}, r"gcrn\.channels is \[4, 6, 8\] there"),
        ({"hidden": 12, "cell": "gru"}, r"gcrn\.cell is 'lstm' there"),
    ],
)
def test_what_does_not_fit_is_refused(large: dict[str, Any], message: str, tmp_path: Path) -> None:
    small = used(SMALL, tmp_path)
    config = replace(small.config, gcrn=replace(SMALL, **large))
    with pytest.raises(EnhanceError, match=message):
        start_from(WaveformModel(config), config, tmp_path)

"""Muon: orthogonality against an SVD, one step by hand, who gets which rule."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from enhance.config import TrainingConfig
from enhance.errors import EnhanceError
from enhance.network.gated import GatedConv, GatedDeconv
from enhance.training.enhancer import EnhancerPlan
from enhance.training.optim.muon import Muon, orthogonal


@pytest.mark.parametrize("bfloat16", [True, False])
@pytest.mark.parametrize("shape", [(3, 24, 24), (2, 16, 40), (2, 40, 16)])
def test_orthogonal_is_near_the_polar_factor(
    shape: tuple[int, ...], bfloat16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    has = {"avx512_bf16": bfloat16}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)
    torch.manual_seed(0)
    u, values, vh = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    x = u @ torch.diag_embed(torch.linspace(0.1, 1, values.shape[1]).expand_as(values)) @ vh
    scale = max(1.0, shape[1] / shape[2]) ** 0.5
    got = orthogonal(x) / scale
    values = torch.linalg.svdvals(got)
    assert values.min() > 0.6 and values.max() < 1.3
    # Eight bits of a mantissa tell which arithmetic it was.
    assert torch.allclose(got, got.bfloat16().float(), rtol=1e-6, atol=0) == bfloat16
    # The same singular vectors: rotated back, the result is nearly diagonal.
    core = u.mT @ got @ vh.mT
    assert (core - torch.diag_embed(core.diagonal(dim1=1, dim2=2))).abs().max() < 0.05
    assert torch.allclose(orthogonal(100 * x), orthogonal(x), atol=0.05)


def test_a_step_by_hand() -> None:
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(12, 20), nn.LSTM(12, 8))
    optimizer = Muon(module, lr=1e-3, matrix_rate=0.1, weight_decay=0.5)
    linear, lstm = module
    for group in optimizer.param_groups:
        group["lr"] = 1e-3 * group.get("scale", 1.0)
    before = {n: p.detach().clone() for n, p in module.named_parameters()}
    momentum = {n: torch.zeros_like(p) for n, p in module.named_parameters()}
    for _ in range(2):
        gradients = {n: torch.randn_like(p) for n, p in module.named_parameters()}
        for n, p in module.named_parameters():
            p.grad = gradients[n].clone()
        optimizer.step()
        for n, gates in (("0.weight", 1), ("1.weight_ih_l0", 4), ("1.weight_hh_l0", 4)):
            momentum[n] = 0.95 * momentum[n] + gradients[n]
            ahead = gradients[n] + 0.95 * momentum[n]
            update = torch.cat([orthogonal(part[None])[0] for part in ahead.chunk(gates)])
            before[n] = before[n] * (1 - 0.1 * 0.5) - 0.1 * update
            assert torch.allclose(dict(module.named_parameters())[n], before[n], atol=1e-5)
    # Vectors follow AdamW, which in its first steps moves by the rate, whatever the gradient.
    moved = (linear.bias - before["0.bias"]).abs()
    assert 0 < moved.max() <= 2.1e-3
    assert (lstm.bias_ih_l0 - before["1.bias_ih_l0"]).abs().max() <= 2.1e-3


def test_small_kernels_and_vectors_are_adamw() -> None:
    module = nn.ModuleList([nn.Conv2d(2, 32, (1, 3)), nn.ConvTranspose2d(16, 8, (1, 3))])
    optimizer = Muon(module, lr=1e-3, matrix_rate=0.02, weight_decay=0.0)
    assert set(optimizer.layouts) == {module[1].weight}
    grouped = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(grouped) == len(set(grouped)) == 4


def test_kernels_are_matrices_from_inputs_to_outputs_and_gated_halves_stand_alone() -> None:
    torch.manual_seed(2)
    module = nn.ModuleDict(
        {
            "plain": nn.Conv2d(10, 12, (1, 3)),
            "transposed": nn.ConvTranspose2d(40, 10, (1, 3)),  # 10 x 120: a wide matrix, not tall
            "gated": GatedConv(10, 12),
            "gated transposed": GatedDeconv(20, 9, 33, last=False),
            "narrow": GatedDeconv(20, 4, 33, last=False),  # 8 outputs, of two halves of 4
        }
    )
    optimizer = Muon(module, lr=1e-3, matrix_rate=0.1, weight_decay=0.0)
    kernels = {n: getattr(part, "conv", part).weight for n, part in module.items()}
    before = {name: kernel.detach().clone() for name, kernel in kernels.items()}
    for parameter in module.parameters():
        parameter.grad = torch.randn_like(parameter)
    gradients = {name: kernel.grad.clone() for name, kernel in kernels.items()}
    for group in optimizer.param_groups:
        group["lr"] = 1e-3 * group.get("scale", 1.0)
    optimizer.step()
    assert kernels["narrow"] not in optimizer.layouts
    for name in list(kernels)[:-1]:
        swap = "transposed" in name
        ahead = 1.95 * (gradients[name].transpose(0, 1) if swap else gradients[name])
        parts = ahead.flatten(1).chunk(2 if "gated" in name else 1)
        update = torch.cat([orthogonal(part[None])[0] for part in parts]).view_as(ahead)
        expected = before[name] - 0.1 * (update.transpose(0, 1) if swap else update)
        # Products of several matrices at once may round their bfloat16 otherwise.
        torch.testing.assert_close(kernels[name].detach(), expected, rtol=0, atol=2e-3, msg=name)
        values = torch.cat([torch.linalg.svdvals(x) for x in update.flatten(1).chunk(len(parts))])
        assert values.min() > 0.6 and values.max() < 1.3, name


def test_a_state_of_when_a_kernel_was_muons_goes_on() -> None:
    module = GatedDeconv(20, 4, 33, last=False)
    optimizer = Muon(module, lr=1e-3, matrix_rate=0.1, weight_decay=0.0)
    kernel = module.conv.weight
    optimizer.state[kernel]["momentum"] = torch.ones_like(kernel)
    kernel.grad = torch.ones_like(kernel)
    optimizer.step()
    assert set(optimizer.state[kernel]) == {"step", "exp_avg", "exp_avg_sq"}


def test_the_configuration_chooses() -> None:
    module = nn.Linear(16, 16)

    def made(training: TrainingConfig) -> torch.optim.Optimizer:
        return EnhancerPlan(training).optimizer(module)

    assert type(made(TrainingConfig(optimizer="adamw"))) is torch.optim.AdamW
    muon = made(TrainingConfig(matrix_rate=0.03, learning_rate=1e-3))
    assert isinstance(muon, Muon)
    assert muon.param_groups[0]["scale"] == pytest.approx(30)
    with pytest.raises(EnhanceError, match="matrix_rate"):
        TrainingConfig(matrix_rate=0.0)

"""Frames of two models meet by the overlap of their cells."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from distill.teacher import frames as frames_module
from distill.teacher.frames import FrameGrid, overlaps, resample
from enhance.stft import FRAMINGS, StftConfig

TEACHERS = {320: FrameGrid(-80, 320, 400), 160: FrameGrid(-305, 160, 465)}
"""wav2vec 2.0's grid, and that of wav2vec (2019) with 305 zeros on the left."""
STUDENTS = {c.hop_length: FrameGrid.of_student(c) for c in FRAMINGS.values()}


def cell(grid: FrameGrid, t: int) -> np.ndarray:
    """Half samples that frame t owns, by the definition in the contract."""
    start = grid.offset + t * grid.stride + (grid.field - grid.stride) / 2
    return np.arange(round(2 * start), round(2 * (start + grid.stride)))


def test_student_grids() -> None:
    assert STUDENTS[320] == FrameGrid(-80, 320, 400)
    assert STUDENTS[256] == FrameGrid(-256, 256, 512)
    assert STUDENTS[160] == FrameGrid(-160, 160, 320)


@pytest.mark.parametrize("hop", [320, 256, 160])
@pytest.mark.parametrize("stride", [320, 160])
def test_impulse(hop: int, stride: int) -> None:
    """A teacher frame that stands out reaches exactly the student frames whose cells it meets,
    by the share of the cell that it covers: counted here half sample by half sample."""
    source, target = TEACHERS[stride], STUDENTS[hop]
    teacher_frames, frames = 30 * 320 // stride, 20 * 320 // hop
    everything = torch.ones(1, teacher_frames, dtype=torch.bool)
    for t in (0, 1, 7, 8, 9, 10):
        values = torch.zeros(1, teacher_frames, 1)
        values[0, t] = 1
        out, valid = resample(values, everything, source, target, frames)
        for k in range(frames):
            mine = cell(target, k)
            met = np.isin(mine, cell(source, t)).mean()
            covered = (mine >= cell(source, 0)[0]).mean()  # the right side is longer
            assert out[0, k, 0] == pytest.approx(met / covered if covered else 0, abs=1e-6), (t, k)
            assert bool(valid[0, k]) == (covered >= 0.5)


def test_equal_grids_are_the_identity() -> None:
    source, target = TEACHERS[320], STUDENTS[320]
    assert source == target
    values = torch.randn(2, 40, 5)
    valid = torch.rand(2, 40) > 0.3
    out, kept = resample(values, valid, source, target, 40)
    assert torch.equal(kept, valid)
    assert torch.equal(out[valid], values[valid])
    assert not out[~valid].any()
    out, kept = resample(values, valid, source, target, 43)  # the student counts a few frames more
    assert torch.equal(out[:, :40][valid], values[valid])
    assert not kept[:, 40:].any()


@pytest.mark.parametrize("hop", [320, 256, 160])
@pytest.mark.parametrize("stride", [320, 160])
def test_a_ramp_in_time_stays_in_place(hop: int, stride: int) -> None:
    """Features that say when they are heard still do, to less than half the coarser cell."""
    source, target = TEACHERS[stride], STUDENTS[hop]
    middles = [cell(source, t).mean() / 2 for t in range(40)]
    values = torch.tensor(middles, dtype=torch.float64)[None, :, None]
    out, valid = resample(values, torch.ones(1, 40, dtype=torch.bool), source, target, 20)
    expected = np.array([cell(target, k).mean() / 2 for k in range(20)])
    error = np.abs(out[0, :, 0].numpy() - expected)[valid[0].numpy()][2:-2]
    assert len(error) > 10
    assert error.max() <= stride / 2


def test_shares_sum_to_the_part_covered() -> None:
    share = overlaps(TEACHERS[320], STUDENTS[160], 10, 22).numpy()
    total = share.sum(1)
    assert np.allclose(total[1:20], 1)
    assert np.all(total[21:] == 0)


@pytest.mark.parametrize("hop", [320, 256, 160])
@pytest.mark.parametrize("stride", [320, 160])
def test_a_long_recording_is_met_block_by_block(
    hop: int, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As at once, without a table of the square of its length."""
    source, target = TEACHERS[stride], STUDENTS[hop]
    values, valid = torch.randn(2, 200, 3), torch.rand(2, 200) > 0.2
    frames = 230 * stride // hop  # the student counts more
    whole = resample(values, valid, source, target, frames)
    tables = []

    def made(source: FrameGrid, target: FrameGrid, of: int, frames: int) -> torch.Tensor:
        tables.append(of * frames)
        return overlaps(source, target, of, frames)

    monkeypatch.setattr(frames_module, "_kept", made)
    monkeypatch.setattr(frames_module, "_BLOCK", 16)
    out, kept = resample(values, valid, source, target, frames)
    assert max(tables) <= 16 * (16 * hop // stride + 4)
    assert torch.equal(kept, whole[1])
    torch.testing.assert_close(out, whole[0])


def test_masked_frames_do_not_leak() -> None:
    values = torch.ones(1, 10, 3)
    values[0, 4] = 1e6
    valid = torch.ones(1, 10, dtype=torch.bool)
    valid[0, 4] = False
    for hop in (320, 256, 160):
        out, kept = resample(values, valid, TEACHERS[320], STUDENTS[hop], 10)
        assert torch.allclose(out[kept], torch.ones(()))
        assert kept.sum() < 10 or hop == 160


@pytest.mark.parametrize("grid", [*TEACHERS.values(), *STUDENTS.values(), FrameGrid(3, 7, 10)])
def test_owned_is_by_the_centre(grid: FrameGrid) -> None:
    for start, length in [(0, 1000), (320, 640), (13, 5), (999, 4001), (0, 0), (4000, 9000)]:
        expected = [
            t for t in range(25)
            if start <= grid.offset + t * grid.stride + grid.field / 2 < start + length
        ]  # fmt: skip
        assert list(grid.owned(start, length, 25)) == expected


def test_pieces_side_by_side_own_every_frame_once() -> None:
    for grid in (*TEACHERS.values(), *STUDENTS.values()):
        cuts = [0, 640, 641, 3200, 8000]
        owned = [t for a, b in itertools.pairwise(cuts) for t in grid.owned(a, b - a, 20)]
        assert sorted(owned) == list(grid.owned(0, 8000, 20))


def test_odd_field_minus_stride_stays_exact() -> None:
    assert FrameGrid(0, 2, 3).cells(2).tolist() == [1, 5]  # half samples
    assert StftConfig(16000, 400, 320, 400).overlap == 80

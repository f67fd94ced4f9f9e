"""The pages of studies are what `enhance compare --report` draws of the records beside them."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from benchmarks.study.compare import compare
from benchmarks.study.networks import read_times

ROOT = Path(__file__).resolve().parents[3]
STUDIES = {
    "trials": ("trials", ".", "RESULTS"),
    "modes": ("modes", "modes", "MODES"),
    "widths": ("modes", "widths", "WIDTHS"),
    "trials-dual": ("trials-dual", "trials-dual", "TRIALS-DUAL"),
}


@pytest.mark.parametrize("study", STUDIES)
def test_a_page_is_what_its_records_say(
    study: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Times of networks too, whatever settings networks have got since."""
    monkeypatch.setattr("benchmarks.figures.plots.quality_plot", lambda *_: False)
    archive, inside, page = STUDIES[study]
    with tarfile.open(ROOT / f"benchmarks/{archive}.tar.xz") as records:
        records.extractall(tmp_path, filter="data")
    folder = tmp_path / inside
    assert read_times(folder)["networks"]
    compare(ROOT / f"configs/{study}.yaml", folder, report=True, quiet=True)
    assert (folder / "RESULTS.md").read_text() == (ROOT / f"benchmarks/{page}.md").read_text()

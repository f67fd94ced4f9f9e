"""The house: `lint-imports` holds its arrows, and sees one that is planted."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rooms import PACKAGES, circles_of

pytest.importorskip("importlinter")

ROOT = Path(__file__).parents[1]
PLANTS = {
    "distill/ssl/run.py": "benchmarks.analysis.phone_probe",
    "enhance/network/checkpoint.py": "enhance.training.engine.state",
    "benchmarks/quality/evaluate.py": "benchmarks.pages.report",
    "export/graph/step.py": "export.stream",
    "distill/speaker/eer.py": "distill.ctc.score",
}
"""Files, and what each of them must not import."""


def lint(place: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache", "--no-logo"]
    return subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)


def test_no_arrow_back_up_and_no_circle() -> None:
    found = lint(ROOT)
    assert found.returncode == 0, found.stdout


def test_no_circle_of_rooms() -> None:
    command = [sys.executable, "tests/rooms.py"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert ", 0 circles" in told, told


def test_planted_arrows_are_named(tmp_path: Path) -> None:
    for name in PACKAGES:
        shutil.copytree(
            ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("models", "__py*")
        )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for file, imported in PLANTS.items():
        with (tmp_path / file).open("a", encoding="utf-8") as text:
            text.write(f"\nimport {imported}\n")
    with (tmp_path / "enhance/data/mixing/recipe.py").open("a", encoding="utf-8") as text:
        text.write("\nimport enhance.data.mixing.mixer\n")  # which imports recipe
    (tmp_path / "benchmarks" / "attic").mkdir()
    (tmp_path / "benchmarks" / "attic" / "__init__.py").touch()
    found = lint(tmp_path)
    told = " ".join(found.stdout.split())
    assert found.returncode == 1
    for file, imported in PLANTS.items():
        importer = file.removesuffix(".py").replace("/", ".")
        assert f"- {importer} -> {imported} (l." in told, file
    assert "No cycles are allowed in enhance.data." in told
    assert "benchmarks.attic" in told  # a room that has no place yet


def test_circles() -> None:
    arrows = {("a", "b"), ("b", "c"), ("c", "a"), ("c", "d"), ("e", "d"), ("f", "g"), ("g", "f")}
    assert circles_of(arrows) == {("a", "b", "c"), ("f", "g")}

"""Faults that the tests must see: `python tests/mutants.py [NAME...]`.

Each mutant is one change of one file of a copy of this tree, tried with the test that must fail,
and taken back. Each takes a minute or two: not for CI.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Mutant:
    """One fault."""

    name: str
    file: str
    old: str
    """Stands in the file once."""
    new: str
    test: str
    """Must pass without the fault and fail with it."""


ENGINE = "enhance/training/engine/engine.py"
STEPS = (
    "tests/enhance/training/engine/test_engine.py::"
    "test_every_step_has_its_rate_its_scale_and_its_bound"
)
GROUP = "tests/enhance/training/test_training_faults.py::test_a_signal_to_the_whole_group"
MUTANTS = (
    Mutant(
        "clip norm ignored", ENGINE, "max_norm=plan.clip_norm or math.inf", "max_norm=math.inf",
        STEPS,
    ),
    Mutant("schedule ignored", ENGINE, "rate = plan.rate(state)", "rate = 0.1", STEPS),
    Mutant(
        "Muon given AdamW's rate", ENGINE, 'rate * group.get("scale", 1.0)', "rate", STEPS,
    ),
    Mutant(
        "EMA decay ignored", "enhance/training/enhancer.py",
        "Ema(self.model, plan.training.ema_decay)", "Ema(self.model, 0.999)",
        "tests/enhance/training/test_training_faults.py::test_the_average_has_its_decay",
    ),
    Mutant(
        "the average under the model's batch norms", "enhance/training/enhancer.py",
        "        self._settle()\n        result", "        result",
        "tests/enhance/training/test_training.py::test_validation_measures_the_average",
    ),
    Mutant(
        "weight decay ignored", "enhance/training/enhancer.py",
        "adamw(module, c.learning_rate, c.weight_decay)", "adamw(module, c.learning_rate, 0.0)",
        "tests/enhance/training/engine/test_engine.py::test_decay_is_that_of_the_configuration",
    ),
    Mutant(
        "Muon's weight decay ignored", "enhance/training/enhancer.py",
        "weight_decay=c.weight_decay\n", "weight_decay=0.0\n",
        "tests/enhance/training/engine/test_engine.py::test_decay_is_that_of_the_configuration",
    ),
    Mutant(
        "workers not ignoring Ctrl-C", "enhance/data/mixing/loader.py",
        "(signal.SIGINT, signal.SIGTERM)", "(signal.SIGTERM,)",
        "tests/enhance/data/mixing/test_loader.py::test_signals_are_nothing_to_a_worker[2]",
    ),
    Mutant(
        "workers not ignoring SIGTERM", "enhance/data/mixing/loader.py",
        "(signal.SIGINT, signal.SIGTERM)", "(signal.SIGINT,)", f"{GROUP}[15]",
    ),
    Mutant(
        "second Ctrl-C doing nothing", "enhance/training/engine/interrupt.py",
        "raise KeyboardInterrupt", "return",
        "tests/enhance/training/test_training_faults.py::test_a_second_ctrl_c_interrupts_at_once",
    ),
    Mutant(
        "gradient not looked at", ENGINE, "and math.isfinite(norm)", "",
        "tests/enhance/training/engine/test_engine.py::test_a_finite_loss_of_an_infinite_gradient_reaches_nothing",
    ),
    Mutant(
        "a folder for two", "enhance/training/run/run_folder.py",
        'FileLock(folder / ".lock", timeout=0)', 'FileLock(folder / f".{id(folder)}", timeout=0)',
        "tests/enhance/training/test_training_faults.py::test_one_process_to_a_run",
    ),
    Mutant(
        "transposed kernels taken as they lie", "enhance/training/optim/muon.py",
        "Layout(halves, isinstance(part, kinds))", "Layout(halves, False)",
        "tests/enhance/training/optim/test_muon.py",
    ),
)  # fmt: skip


def passes(tree: Path, test: str) -> bool:
    """Whether a test passes as the tree is now."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", test]
    here = {**os.environ, "PYTHONPATH": str(tree)}  # not the code that is installed
    found = subprocess.run(command, cwd=tree, env=here, capture_output=True, text=True, check=False)
    if found.returncode not in (0, 1):
        sys.exit(f"{test}: cannot be run\n{found.stdout}{found.stderr}")
    return found.returncode == 0


def survives(tree: Path, mutant: Mutant) -> bool:
    """Whether the test passes with the fault in place."""
    path = tree / mutant.file
    text = path.read_text("utf-8")
    if text.count(mutant.old) != 1:
        sys.exit(f"{mutant.name}: {mutant.file} has {mutant.old!r} {text.count(mutant.old)} times")
    try:
        path.write_text(text.replace(mutant.old, mutant.new), "utf-8")
        return passes(tree, mutant.test)
    finally:
        path.write_text(text, "utf-8")


def main(names: list[str]) -> None:
    """Try the mutants named, or all; exit code 1 if one survives."""
    chosen = [m for m in MUTANTS if not names or m.name in names]
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        unneeded = shutil.ignore_patterns(".*", "__pycache__", "runs", "*.egg-info")
        tree = shutil.copytree(ROOT, Path(folder) / "tree", ignore=unneeded)
        for mutant in chosen:
            if not passes(tree, mutant.test):
                verdict = "its test fails without it"
            else:
                verdict = "SURVIVES" if survives(tree, mutant) else "killed"
            bad += verdict != "killed"
            print(f"{mutant.name}: {verdict}", flush=True)
    sys.exit(bool(bad) or not chosen)


if __name__ == "__main__":
    main(sys.argv[1:])

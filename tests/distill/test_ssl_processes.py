"""Several processes in one pre-training, and two that would share a folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_families import CASES, TINY, configured

from distill.backbones.find import load
from distill.ssl.run import FORMAT, pretrain
from distill.training.loop import Loop
from enhance.errors import EnhanceError


@pytest.mark.parametrize("case", ["vq-kmeans", "hubert"])
def test_two_processes_hear_twice_as_much(case: str, tiny_corpus: Path, tmp_path: Path) -> None:
    """Of weights that stand still, two batches of one step have the mean loss of two steps."""
    family, settings = CASES[case]
    changes = {"steps": [3], "log_every": 1, "learning_rate": 1e-12}
    words = [
        word
        for key, value in {**TINY, **settings, **changes}.items()
        for word in ("--set", f"{key}={json.dumps(value)}")
    ]
    command = ["-m", "enhance", "teacher", "pretrain", "--family", family]
    command += ["--corpus", str(tiny_corpus), "-o", str(tmp_path / "two"), "--devices", "2", *words]
    done = subprocess.run(
        [sys.executable, *command],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.count('"type": "validation"') == 1, done.stderr
    alone = configured(case, **{**changes, "steps": [6]})
    pretrain(alone, tiny_corpus, tmp_path / "one", quiet=True)
    one, two = (
        [json.loads(line) for line in (tmp_path / name / "history.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    )
    losses = [row["loss"] for row in one if row["type"] == "train"]
    found = [row["loss"] for row in two if row["type"] == "train"]
    expected = np.reshape(losses, (3, 2)).mean(axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    record = json.loads((tmp_path / "two" / "record.json").read_text())
    assert record["iterations"][0]["steps"] == 3
    assert load(str(tmp_path / "two")).num_layers


@pytest.mark.parametrize("kept", ["model.safetensors", "history.jsonl", "record.json"])
def test_results_without_their_state_are_left_alone(
    tiny_corpus: Path, tmp_path: Path, kept: str
) -> None:
    (tmp_path / kept).write_text("{}")
    before = (tmp_path / kept).read_bytes()
    for resume, told in ((False, f"holds {kept} already, but not"), (True, "no run to go on with")):
        with pytest.raises(EnhanceError, match=told):
            pretrain(configured("wav2vec"), tiny_corpus, tmp_path, resume=resume, quiet=True)
    assert [p.name for p in tmp_path.iterdir()] == [kept]
    assert (tmp_path / kept).read_bytes() == before


def test_auto_precision_stays_what_it_was(
    tiny_corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    has = {"avx512_bf16": False}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)
    config = configured("wav2vec", precision="auto", steps=[1])
    pretrain(config, tiny_corpus, tmp_path, quiet=True)
    has["avx512_bf16"] = True  # another machine
    with Loop(config, tmp_path, FORMAT, resume=True, quiet=True) as loop:
        assert loop.fabric._precision.precision == "32-true"
    assert "goes on in fp32, as it began; `auto` is bf16 on this machine" in capsys.readouterr().err


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    config = configured("wav2vec")
    with (
        Loop(config, tmp_path, FORMAT, resume=False, quiet=True) as loop,
        Loop(config, tmp_path, FORMAT, resume=False, quiet=True) as late,
    ):
        loop.lock()
        with pytest.raises(EnhanceError, match="another process is training there"):
            late.lock()

"""The command line: every bad input is one line and exit code 2, and nothing is half-written."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tiny_onnx

from distill import extract as extraction
from enhance.cli import app as cli
from enhance.data.corpus import align as corpus_align
from enhance.device.hub import find_model

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def enhance(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Cli:
    """Run a command in an empty folder; exit code, standard output and standard error."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys.modules["__main__"], "__package__", "")  # else: python -m pytest

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["enhance", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as error:
            code = int(error.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_onnx.build(tmp_path / "model.onnx", pole=0.5)


def refused(result: tuple[int, str, str], *words: object) -> None:
    code, out, err = result
    assert code == 2, err
    assert out == ""
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    for word in words:
        assert str(word) in err


def noise(samples: int) -> np.ndarray:
    return (0.1 * np.random.default_rng(0).standard_normal(samples)).astype(np.float32)


def no_samples(path: Path) -> None:
    soundfile.write(path, noise(0), 16000)


def promise_of_100_hours(path: Path) -> None:
    soundfile.write(path, noise(1600), 16000, subtype="PCM_16")
    data = bytearray(path.read_bytes())
    data[40:44] = (2**32 - 100).to_bytes(4, "little")  # bytes of the data chunk
    path.write_bytes(data)


def nan_late(path: Path) -> None:
    wave = noise(160000)
    wave[150000] = np.nan
    soundfile.write(path, wave, 16000, subtype="FLOAT")


def text(path: Path) -> None:
    path.write_text("this is no audio\n" * 50)


def nothing(path: Path) -> None:
    pass


def a_folder_without_audio(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (no_samples, "no samples"),
        (promise_of_100_hours, "truncated"),
        (nan_late, "NaN"),
        (text, "not"),
        (nothing, "no such file"),
        (a_folder_without_audio, "no audio"),
    ],
)
def test_run_refuses_bad_input_in_one_line(
    enhance: Cli, model: Path, tmp_path: Path, make: Callable[[Path], None], word: str
) -> None:
    bad = tmp_path / "bad.wav"
    make(bad)
    out = tmp_path / "new" / "out.wav"
    code, stdout, err = enhance("run", bad, out, "--model", model, "--quiet")
    assert (code, stdout) == (2, "")
    assert err.count("\n") == 1 and "bad.wav" in err and word in err, err
    assert not [p for p in tmp_path.rglob("*") if "out" in p.name]


def test_run_refuses_an_unwritable_output(enhance: Cli, model: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "in.wav", noise(800), 16000)
    (tmp_path / "file").write_text("in the way")
    result = enhance("run", tmp_path / "in.wav", tmp_path / "file" / "x.wav", "-m", model, "-q")
    refused(result, "x.wav", "cannot be written")
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize("samples", [1, 3, 79, 401])
def test_run_takes_less_than_a_window(
    enhance: Cli, model: Path, tmp_path: Path, samples: int
) -> None:
    soundfile.write(tmp_path / "in.wav", noise(samples), 16000)
    code, _, err = enhance("run", tmp_path / "in.wav", "--model", model)
    assert code == 0, err
    assert soundfile.info(tmp_path / "in_enhanced.wav").frames == samples


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_run_with_no_strength_gives_the_input_back(
    enhance: Cli, model: Path, tmp_path: Path, subtype: str
) -> None:
    # Exactly the samples of the file, also those above the model's band: not a resampled copy.
    wave = np.random.default_rng(1).uniform(-1, 1, (100_003, 2))
    soundfile.write(tmp_path / "in.wav", wave, 44100, subtype=subtype)
    before = soundfile.read(tmp_path / "in.wav", dtype="int32" if "PCM" in subtype else "float32")
    for option in (("--strength", 0), ("--atten-limit", 0)):
        code, _, err = enhance("run", tmp_path / "in.wav", "-m", model, "--force", *option)
        assert code == 0, err
        after, rate = soundfile.read(tmp_path / "in_enhanced.wav", dtype=before[0].dtype.name)
        assert rate == 44100
        np.testing.assert_array_equal(after, before[0])
    enhance("run", tmp_path / "in.wav", "-m", model, "--force", "--strength", 0.9)
    after, _ = soundfile.read(tmp_path / "in_enhanced.wav", dtype=before[0].dtype.name)
    assert (after != before[0]).mean() > 0.9


def test_run_limits_what_is_taken_away(enhance: Cli, tmp_path: Path) -> None:
    silent = tiny_onnx.build(tmp_path / "silent.onnx", gain=0.0)
    soundfile.write(tmp_path / "in.wav", noise(16000), 44100, subtype="FLOAT")
    for bandwidth, settled, error in (("16k", 0, 1e-7), ("full", 8000, 1e-3)):
        options = ("--atten-limit", 12, "--bandwidth", bandwidth, "--force")
        code, _, err = enhance("run", tmp_path / "in.wav", "-m", silent, *options)
        assert code == 0, err
        out, _ = soundfile.read(tmp_path / "in_enhanced.wav", dtype="float32")
        wanted = 10 ** (-12 / 20) * noise(16000)
        np.testing.assert_allclose(out[settled:], wanted[settled:], atol=error)


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--strength", 1.5, ("strength 1.5", "0 to 1")),
        ("--strength", -0.1, ("strength -0.1", "0 to 1")),
        ("--strength", "nan", ("strength nan", "0 to 1")),
        ("--atten-limit", -3, ("atten_limit -3.0", "at least 0")),
    ],
)
def test_run_refuses_a_share_out_of_range(
    enhance: Cli, model: Path, tmp_path: Path, option: str, value: object, words: tuple[str, ...]
) -> None:
    soundfile.write(tmp_path / "in.wav", noise(800), 16000)
    refused(enhance("run", tmp_path / "in.wav", "-m", model, option, value), *words)
    assert not (tmp_path / "in_enhanced.wav").exists()


def test_run_finishes_the_good_files_of_a_folder(enhance: Cli, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a", "c"):
        soundfile.write(folder / f"{name}.wav", noise(900), 16000)
    text(folder / "b.wav")
    code, _, err = enhance("run", folder, tmp_path / "out", "--model", model)
    assert code == 2
    assert "b.wav" in err and "1 of 3" in err
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.wav", "c.wav"]


def test_train_refuses_an_unknown_key(enhance: Cli, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("training: {learning_rat: 1}\n")
    refused(
        enhance("train", "--config", tmp_path / "c.yaml", "--run", tmp_path / "run"),
        "learning_rat",
        "learning_rate",
        "c.yaml",
    )
    assert not (tmp_path / "run").exists()
    refused(enhance("train", "--set", "nonsense=1"), "nonsense")
    refused(enhance("train", "--mode", "base", "--set", "objective.weight=1"), "objective")


def test_train_refuses_a_manifest_with_a_missing_file(enhance: Cli, tmp_path: Path) -> None:
    manifest = tmp_path / "m.jsonl"
    row = {"path": "gone.wav", "duration": 1.0, "sample_rate": 16000, "kind": "speech"}
    manifest.write_text(json.dumps(row) + "\n")
    refused(
        enhance("train", "--set", f"data.speech=[{manifest}]", "--run", tmp_path / "run", "-q"),
        "gone.wav",
    )
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_modes_are_checked_before_anything_is_made(enhance: Cli, tmp_path: Path) -> None:
    code, out, _ = enhance("train", "--help")
    assert code == 0
    assert all(mode in out for mode in ("base", "distill", "concat", "pretrain"))
    run = ("--run", tmp_path / "run", "-q")
    refused(enhance("train", "--mode", "dream", *run), "no mode 'dream'", "concat")
    refused(enhance("train", "--mode", "base+concat", *run), "base")
    refused(enhance("train", "--mode", "concat", "--set", "objective.sise=3", *run), "'size'")
    refused(enhance("train", "--mode", "concat+distill", "--set", "objective.size=3", *run), "size")
    assert not (tmp_path / "run").exists()


def test_layers_are_advised_with_their_source(enhance: Cli) -> None:
    code, out, _ = enhance("info", "layers")
    assert code == 0
    assert "last_k:4" in out and "001, layer" in out and "none was reproduced" in out


def test_a_checkpoint_from_other_code_is_refused(enhance: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "foreign"
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["BertModel"]}')
    (folder / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    refused(enhance("export", folder, "--onnx", "-o", tmp_path / "x.onnx"), "foreign")
    assert not (tmp_path / "x.onnx").exists()
    refused(enhance("evaluate", folder, "--quiet", "-o", tmp_path / "report"), "foreign")
    refused(enhance("info", folder), "foreign")


def test_commands_without_a_run_say_so(enhance: Cli) -> None:
    refused(enhance("export", "--onnx"), "runs")
    refused(enhance("evaluate"), "runs")
    refused(enhance("train", "--resume"), "runs")


def test_export_wants_a_format(enhance: Cli, tmp_path: Path) -> None:
    refused(enhance("export", tmp_path), "--onnx", "--offline")
    refused(enhance("export", tmp_path, "--onnx", "--require-faster"), "is of --int8")
    refused(enhance("export", tmp_path, "--offline", "--int8"), "--offline")


def test_a_foreign_onnx_file_is_refused(enhance: Cli, tmp_path: Path) -> None:
    path = tiny_onnx.build(tmp_path / "m.onnx", props={})
    soundfile.write(tmp_path / "in.wav", noise(800), 16000)
    refused(enhance("run", tmp_path / "in.wav", "--model", path), "m.onnx", "metadata")
    refused(enhance("run", tmp_path / "in.wav", "--model", "nonsense"), "nonsense")


def test_info_lists_presets(enhance: Cli) -> None:
    code, out, _ = enhance("info", "gcrn-small")
    assert code == 0
    assert "992,324" in out and "400/320" in out and "25 ms" in out


def test_info_of_all_is_whole_in_a_pipe(enhance: Cli) -> None:
    code, out, _ = enhance("info")
    head, *rows = out.splitlines()
    assert code == 0 and "…" not in out
    assert head.split()[:3] == ["model", "parameters", "MAC/s"]
    figures = {row.split()[0]: row.split()[1] for row in rows}
    assert figures["gcrn-small"] == "992,324" and {"default", "small"} <= figures.keys()


def test_info_takes_a_name_as_it_stands(enhance: Cli) -> None:
    for name in ("my[red].onnx", "my[/b].onnx", "my:smile:.onnx"):
        path = Path(name)
        path.parent.mkdir(exist_ok=True)
        shutil.copy(find_model("small"), path)
        code, out, _ = enhance("info", path)
        assert code == 0 and name in out


def test_words_that_are_none_are_not_left_unsaid(enhance: Cli, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(1600), 16000)
    assert "neither speech nor noise" in enhance("data", "manifest", tmp_path, "-q")[2]
    (tmp_path / "words.txt").write_text("1 2 3\n")
    align = ("data", "align", tmp_path / "manifest.jsonl", "-o", tmp_path / "out", "--words")
    refused(enhance(*align, tmp_path / "words.txt"), "words.txt: holds no word")
    refused(enhance(*align, tmp_path / "none.txt"), "none.txt: cannot be read (No such file")


def test_align_counts_the_clips_that_it_was_given(
    enhance: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_align, "align", lambda clips, *_, **__: [f"{clips[0].path}: no"])
    for name in "abc":
        soundfile.write(tmp_path / f"{name}.wav", noise(1600), 16000)
    texts = tmp_path / "texts.csv"
    texts.write_text("path,text\na.wav,so\nb.wav,so\nc.wav,so\n")
    assert enhance("data", "manifest", tmp_path, "--kind", "speech", "-q")[0] == 0
    align = ("data", "align", tmp_path / "manifest.jsonl", "-o", "out", "--limit", 2)
    for more in ((), ("--transcripts", texts)):
        assert enhance(*align, *more)[1] == "out: phones of 1 clips\n"


def test_features_ask_for_speech_and_nothing_else(
    enhance: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list = []

    def extract(clips: list, *_: object) -> extraction.Extracted:
        heard.append([clip.path.name for clip in clips])
        return extraction.Extracted(len(clips), 0)

    monkeypatch.setattr(extraction, "extract", extract)
    soundfile.write(tmp_path / "a.wav", noise(1600), 16000)
    assert enhance("data", "features", tmp_path, "-q")[0] == 0
    (tmp_path / "noise").mkdir()
    soundfile.write(tmp_path / "noise" / "n.wav", noise(1600), 16000)
    assert enhance("data", "features", tmp_path, "-q")[0] == 0
    assert heard == [["a.wav"], ["a.wav"]]
    refused(enhance("data", "features", tmp_path / "noise", "-q"), "holds no speech")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["run", ""], "behind run"),
        (["train", "--run", ""], "behind --run"),
        (["run"], "Missing argument 'INPUT'; see enhance run --help"),
        (["run", "a.wav", "--num-threads", "0"], "--num-threads"),
        (["bogus"], "'bogus'; see enhance --help"),
        (["train", "--resume", "--init", "x"], "leave --init out"),
        (["train", "--resume", "--run", "x"], "x: there is no run to resume"),
        (["data", "mix", "--set", "mixing.snr=[1,2]"], "--set mixing.snr=[1,2]: a set is mixed of"),
        (["data", "manifest", ".", "--kind", "music"], "--kind music: give speech or noise"),
        (["data", "mix", "--seed", "4294967296"], "--seed"),
    ],
)
def test_a_wrong_command_line_is_one_line(enhance: Cli, words: list[str], told: str) -> None:
    refused(enhance(*words), told)
    assert list(Path().iterdir()) == []


def test_ctrl_c_is_heard_before_all_is_imported() -> None:
    """As it comes within the first import."""
    code = (
        "import builtins, runpy\n"
        "real = builtins.__import__\n"
        "def stop(name, *rest, **named):\n"
        "    if name == 'typer':\n"
        "        raise KeyboardInterrupt\n"
        "    return real(name, *rest, **named)\n"
        "builtins.__import__ = stop\n"
        "runpy.run_module('enhance', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_info_tells_a_dual_path_from_groups(enhance: Cli) -> None:
    for preset, told in (
        ("gcrn-dual", "16-32-48-64, 2 x lstm 96 over time, recurrent over frequency, complex_mask"),
        ("gcrn-small", "16-32-48-64-64, 2 x lstm 320 in 2 groups, complex_mask"),
    ):
        code, out, _ = enhance("info", preset)
        assert code == 0
        assert told in " ".join(out.split())  # however it is wrapped


def test_version_is_that_of_the_distribution(enhance: Cli) -> None:
    from importlib.metadata import version

    code, out, _ = enhance("--version")
    assert (code, out) == (0, f"enhance {version('enhance')}\n")


def test_a_set_at_many_snrs_is_measured_as_the_hint_says(enhance: Cli, tmp_path: Path) -> None:
    for name, level in (("a", 2.5), ("b", 17.5)):
        clean = np.sin(np.arange(16000) * (0.1 + 0.05 * np.sin(np.arange(16000) / 900)))
        rough = noise(16000)
        rough *= np.sqrt(np.sum(clean**2) / np.sum(rough**2)) * 10 ** (-level / 20)
        for part, wave in (("clean", clean), ("noisy", clean + rough)):
            (tmp_path / "vb" / part).mkdir(parents=True, exist_ok=True)
            soundfile.write(tmp_path / "vb" / part / f"{name}.wav", 0.2 * wave, 16000, "FLOAT")
    asked = ("evaluate", "noisy", "--set", tmp_path / "vb", "-q", "--jobs", 1)
    refused(enhance(*asked), "2 of 2 pairs are not at -5 dB", "--snr any")
    for wrong in ("nan", "inf", "none"):
        refused(enhance(*asked, "--snr", wrong), f"--snr {wrong}: ", "any")
    code, out, _ = enhance(*asked, "--snr", "any")
    assert code == 0
    assert "own SNR" in out


@pytest.mark.parametrize("name", ["scipy", "enhance.audio.gone"])
def test_a_library_that_is_missing_is_one_line(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise ModuleNotFoundError(f"No module named '{name}'", name=name)

    monkeypatch.setattr(cli, "app", fail)
    if name != "scipy":  # a fault of ours
        with pytest.raises(ModuleNotFoundError):
            cli.main()
        return
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert "this command needs scipy, not installed here" in capsys.readouterr().err

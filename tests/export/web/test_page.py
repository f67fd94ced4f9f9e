"""What `enhance export --web` writes and refuses, and the npm package."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_native import META, need

from enhance.cli.app import main
from enhance.device.hub import shipped_models
from enhance.files import sha256
from enhance.native.build import find_compiler
from enhance.network.waveform_model import WaveformModel
from export.certificate import Bounds
from export.native import folder as native
from export.native.weights import native_weights
from export.web import page
from export.web.wasm import WEB

ROOT = Path(__file__).parents[3]
WEIGHTS = ROOT / "enhance/models"


def call(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["enhance", "export", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_a_shipped_model_becomes_a_small_page_that_asks_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shipped_models()
    for name in shipped_models():
        assert call(monkeypatch, name, "--web", tmp_path / name, "-q") == 0
        text = (tmp_path / name / "index.html").read_text("utf-8")
        assert len(text.encode()) < 2.5e6
        assert not re.findall(r"<[^>]*\b(?:src|href)=|https?:|url\(|@import|\{\{", text)
        assert "default-src 'none'" in text and f"<strong>{name}</strong>" in text
        data = (tmp_path / name / "enhance.int8.bin").read_bytes()
        assert data == (WEIGHTS / f"{name}.int8.bin").read_bytes()
        record = json.loads((tmp_path / name / "enhance.int8.certificate.json").read_text())
        assert record["sha256"] == sha256(tmp_path / name / "enhance.int8.bin")


def test_it_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "page"
    assert call(monkeypatch, "small", "--web", place) == 0
    assert re.search(r"index\.html: \d\.\d+ MB", capsys.readouterr().err)
    before = (place / "index.html").read_bytes()
    assert call(monkeypatch, "default", "--web", place) == 2
    assert "exists already; overwrite it with --force" in capsys.readouterr().err

    def broken(name: str, weights: bytes) -> str:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(page, "page", broken)
        assert call(patch, "default", "--web", place, "-f") == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert (place / "index.html").read_bytes() == before
    assert call(monkeypatch, "default", "--web", place, "-f", "-q") == 0
    assert (place / "index.html").read_bytes() != before
    assert [path.name for path in tmp_path.iterdir()] == ["page"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["default", "--fp32"], "--fp32: for the run that it was made of"),
        (["default", "--set", "dev", "--licence", "MIT"], "--set and --licence: for the run"),
        (["default", "--onnx"], "--web goes with --fp32 and --int8; leave --onnx out"),
        (["default", "--fp32", "--int8"], "a page has --int8 weights or --fp32; leave one out"),
        (["nothere"], "no such model"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(monkeypatch, *words, "--web", tmp_path / "page") == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1
    assert not any(tmp_path.iterdir())


@pytest.mark.skipif(find_compiler() is None, reason="NO C COMPILER: weights cannot be proven")
def test_a_run_becomes_a_page(
    checkpoint: Path, pairs: Path, model: WaveformModel, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(native, "Bounds", lambda: Bounds(si_sdr_db=99, pesq=9, snr_db=-99))
    made = page.export_page(checkpoint, tmp_path / "page", fp32=True, clips=pairs, quiet=True)
    names = ["enhance.bin", "enhance.certificate.json", "index.html"]
    assert sorted(path.name for path in made.parent.iterdir()) == names
    weights = (made.parent / "enhance.bin").read_bytes()
    assert len(weights) > 1000 and weights[:4] == native_weights(model, META)[:4]
    record = json.loads((made.parent / "enhance.certificate.json").read_text())
    assert record["sha256"] == sha256(made.parent / "enhance.bin")


@pytest.mark.parametrize("int8", [True, False])
def test_weights_for_plain_c_become_a_page_with_their_certificate(
    int8: bool, model: WaveformModel, tmp_path: Path
) -> None:
    stem = "enhance.int8" if int8 else "enhance"
    weights, proof = tmp_path / f"{stem}.bin", tmp_path / f"{stem}.certificate.json"
    weights.write_bytes(native_weights(model, META, int8=int8))
    for told in ("of another file", sha256(weights)):
        proof.write_text(json.dumps({"sha256": told}))
        page.export_page(weights, tmp_path / "page", force=True, quiet=True)
        names = {path.name for path in (tmp_path / "page").iterdir()}
        proven = {proof.name} if told == sha256(weights) else set()
        assert names == {"index.html", weights.name} | proven


def test_the_script_of_the_page_is_javascript(tmp_path: Path) -> None:
    """Modules that stand in one script may not use a name twice."""
    text = page.page("a", (WEIGHTS / "small.int8.bin").read_bytes())
    script = text.split('<script type="module">')[1].split("</script>")[0]
    (tmp_path / "page.mjs").write_text(script)
    done = subprocess.run(
        [need("node"), "--check", tmp_path / "page.mjs"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not re.findall(r"^(import|export) ", script, re.M)


def beside_the_modules(folder: Path, script: str) -> str:
    """What a script prints that imports the page's modules, in node."""
    shutil.copytree(WEB, folder / "web")
    (folder / "web/package.json").write_text('{"type": "module"}')
    (folder / "web/a.js").write_text(script)
    done = subprocess.run([need("node"), folder / "web/a.js"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


RECORDING = """
import { decode, wav } from "./recording.js";
const asked = [];
globalThis.OfflineAudioContext = class {
  constructor(channels, samples, rate) { asked.push(rate); }
  async decodeAudioData() { return { numberOfChannels: 0 }; }
};
const bytes = Uint8Array.from(atob("FILE"), (x) => x.charCodeAt(0)).buffer;
await decode({ name: "a.wav", arrayBuffer: async () => bytes });
const made = await wav([Float32Array.of(0.5, -0.25, 1)], 16000).arrayBuffer();
console.log(JSON.stringify([asked, [...new Uint8Array(made)]]));
"""


def test_chunks_of_wav_files_are_filled_to_an_even_size(tmp_path: Path) -> None:
    with soundfile.SoundFile(tmp_path / "a.wav", "w", 22050, 1) as file:
        file.write(np.zeros(8))
    data = (tmp_path / "a.wav").read_bytes()
    odd = b"LIST" + (3).to_bytes(4, "little") + b"abc\0"  # in front of "fmt "
    text = base64.b64encode(data[:12] + odd + data[12:]).decode()
    asked, made = json.loads(beside_the_modules(tmp_path, RECORDING.replace("FILE", text)))
    assert asked == [22050]
    assert len(made) == 44 + 9 + 1 and int.from_bytes(made[4:8], "little") == len(made) - 8
    assert int.from_bytes(made[40:44], "little") == 9
    found, rate = soundfile.read(io.BytesIO(bytes(made)))
    np.testing.assert_allclose(found, [0.5, -0.25, 1], atol=2**-23)
    assert rate == 16000


DAMAGED = """
import { decode } from "./recording.js";
globalThis.OfflineAudioContext = class {
  async decodeAudioData(wave) {
    return { numberOfChannels: 2, getChannelData: (k) => (k ? wave : Float32Array.of(0, 1)) };
  }
};
for (const x of [0.5, NaN, Infinity]) {
  const bytes = Object.assign(new ArrayBuffer(0), { 0: x, length: 1 });
  const file = { name: "a.wav", arrayBuffer: async () => bytes };
  console.log(await decode(file).then(() => "read", (error) => error.message));
}
"""


def test_samples_that_are_no_numbers_are_told(tmp_path: Path) -> None:
    said = "a.wav: holds samples that are no numbers"
    assert beside_the_modules(tmp_path, DAMAGED).split("\n") == ["read", said, said]


FAILING = """
import { clean } from "./recording.js";
globalThis.OfflineAudioContext = class {
  async startRendering() { return { getChannelData: () => new Float32Array(1600) }; }
};
globalThis.AudioBufferSourceNode = class { connect(to) { return to; } start() {} };
class Failing extends EventTarget {
  seconds = 0;
  ready = new Promise((_, reject) => setTimeout(reject, 20, new Error("it cannot")));
  constructor() { super(); this.ready.catch(() => {}); }
  connect() {}
  destroy() {}
}
const enhance = { latencySamples: () => 0, createNode: async () => new Failing() };
const short = { sampleRate: 16000, length: 1600, numberOfChannels: 1 };
const cleaned = clean(enhance, short, () => {});
console.log(await cleaned.then(() => "it passed", (error) => error.message));
"""


def test_silence_is_no_result_of_a_short_recording(tmp_path: Path) -> None:
    """Whose failure is told after the rendering."""
    assert beside_the_modules(tmp_path, FAILING) == "it cannot"


def test_the_package_is_whole_and_a_server_may_import_it(tmp_path: Path) -> None:
    page.package(tmp_path / "dist")
    for name in ("package.json", "README.md"):
        shutil.copy(ROOT / "web" / name, tmp_path)
    about = json.loads((tmp_path / "package.json").read_text())
    for path in (about["main"], about["types"], *about["exports"]["."].values()):
        assert (tmp_path / path).is_file()
    script = "import * as all from './dist/index.js';"
    script += "console.log(Object.keys(all), all.isSupported())"
    done = subprocess.run(
        [need("node"), "--input-type=module", "-e", script],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = done.stdout.replace("\n", "")
    for name in re.findall(r"export (?:class|function) (\w+)", (WEB / "index.d.ts").read_text()):
        assert name in told
    assert told.endswith("false")
    npm = subprocess.run(
        [need("npm"), "pack", "--ignore-scripts", "--dry-run", "--json"],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert npm.returncode == 0, npm.stderr
    (packed,) = json.loads(npm.stdout)
    names = {file["path"] for file in packed["files"]}
    assert names == {"README.md", "package.json"} | {
        f"dist/{name}"
        for name in ("default.int8.bin", "enhance.wasm", "index.d.ts", "index.js", "worklet.js")
    }

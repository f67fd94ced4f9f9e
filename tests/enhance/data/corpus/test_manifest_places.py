"""Where the paths of a manifest, and links, may lead: what SECURITY.md promises."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from tiny_onnx import build

from enhance.audio.write import write
from enhance.data.corpus.manifest import make_manifest, read_manifest, write_manifest
from enhance.device.clean import clean_file, run_path
from enhance.device.enhancer import Enhancer
from enhance.errors import EnhanceError
from enhance.files import write_jsonl


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    path = tmp_path / "elsewhere" / "a.wav"
    write(path, np.full(1600, 0.1, np.float32), 16000)
    return path


def listed(folder: Path, *paths: str) -> Path:
    folder.mkdir(exist_ok=True)
    write_jsonl(folder / "m.jsonl", [{"path": path} for path in paths])
    return folder / "m.jsonl"


def test_paths_may_lead_out_of_the_folder_as_written(tmp_path: Path, wav: Path) -> None:
    """`..` is taken off the text of a path; a link's name stays."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link.wav").symlink_to(wav)
    (tmp_path / "in" / "folder").symlink_to(wav.parent)
    clips = read_manifest(
        listed(
            tmp_path / "in",
            "../elsewhere/a.wav",
            "folder/../../elsewhere/a.wav",
            str(wav),
            "link.wav",
            "folder/a.wav",
        )
    )
    inside = tmp_path / "in"
    links = [inside / "link.wav", inside / "folder" / "a.wav"]
    assert [clip.path for clip in clips] == [wav, wav, wav, *links]
    assert all(clip.duration == pytest.approx(0.1) for clip in clips)
    write_manifest(tmp_path / "in" / "again.jsonl", clips)
    assert [clip.path for clip in read_manifest(tmp_path / "in" / "again.jsonl")] == [
        clip.path for clip in clips
    ]


@pytest.mark.parametrize("kind", ["gone", "loop", "pipe", "device", "folder"])
def test_what_is_no_file_is_told_and_not_opened(tmp_path: Path, wav: Path, kind: str) -> None:
    place = tmp_path / "in" / "x.wav"
    place.parent.mkdir()
    if kind == "gone":
        place.symlink_to(tmp_path / "nowhere.wav")
    elif kind == "loop":
        place.symlink_to(place)
    elif kind == "pipe":
        os.mkfifo(place)  # opened, it would wait for ever
    elif kind == "device":
        place.symlink_to("/dev/zero")
    else:
        place.mkdir()
    with pytest.raises(EnhanceError, match=r"x\.wav") as caught:
        read_manifest(listed(place.parent, "x.wav", "../elsewhere/a.wav"))
    assert "\n" not in str(caught.value)


def test_a_scan_takes_linked_files_and_does_not_enter_linked_folders(
    tmp_path: Path, wav: Path
) -> None:
    folder = tmp_path / "in"
    (folder / "real").mkdir(parents=True)
    (folder / "link.wav").symlink_to(wav)
    (folder / "real" / "up").symlink_to(folder)  # a scan that followed it would not end
    (folder / "out").symlink_to(wav.parent)
    (folder / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    _, clips, problems = make_manifest(folder, quiet=True)
    assert [clip.path.name for clip in clips] == ["link.wav"]
    assert len(problems) == 1 and "gone.wav: no such file" in problems[0]


def test_an_output_that_is_a_link_is_replaced_and_what_it_named_stays(
    tmp_path: Path, wav: Path
) -> None:
    model = Enhancer(build(tmp_path / "m.onnx"))
    kept = tmp_path / "kept.wav"
    kept.write_bytes(b"kept")
    out = tmp_path / "out.wav"
    out.symlink_to(kept)
    with pytest.raises(EnhanceError, match="exists already"):
        clean_file(wav, out, model)
    clean_file(wav, out, model, force=True)
    assert kept.read_bytes() == b"kept"
    assert not out.is_symlink() and out.stat().st_size > 1000
    out.unlink()
    out.symlink_to(wav)  # the input itself, under another name
    with pytest.raises(EnhanceError, match="is the input file too"):
        clean_file(wav, out, model, force=True)


def test_a_folder_is_cleaned_without_leaving_it(tmp_path: Path, wav: Path) -> None:
    model = Enhancer(build(tmp_path / "m.onnx"))
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "link.wav").symlink_to(wav)
    (folder / "out").symlink_to(wav.parent)
    before = sorted(wav.parent.iterdir())
    result = run_path(folder, tmp_path / "done", model=model, quiet=True)
    assert [item.output for item in result.files] == [tmp_path / "done" / "link.wav"]
    assert not (tmp_path / "done" / "link.wav").is_symlink()
    assert sorted(wav.parent.iterdir()) == before

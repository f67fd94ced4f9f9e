"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from enhance.errors import EnhanceError
from enhance.files import atomic, atomic_folder, read_jsonl


def test_others_may_read_what_a_library_wrote_for_its_owner_only(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        with atomic(tmp_path / "x.bin") as temporary:
            temporary.write_bytes(b"1")
            temporary.chmod(0o600)
    finally:
        os.umask(mask)
    assert (tmp_path / "x.bin").stat().st_mode & 0o777 == 0o644


def test_a_mark_before_the_first_line_is_no_content(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1}\n')
    assert read_jsonl(tmp_path / "x.jsonl") == [{"a": 1}]


def test_a_last_line_that_was_cut_off_is_left_out_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    last = '{"name": "caf\u00e9"}'.encode()
    for size in range(1, len(last)):  # once in the middle of the letter
        path.write_bytes(b'{"a": 1}\r\n' + last[:size])
        assert read_jsonl(path, unfinished=True) == [{"a": 1}]
        path.write_bytes(last[:size] + b"\n")
        with pytest.raises(EnhanceError, match=r"x.jsonl(, line 1: not JSON|: cannot be read)"):
            read_jsonl(path, unfinished=True)


def test_a_folder_made_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    place = tmp_path / "set"
    late = contextlib.ExitStack()
    (late.enter_context(atomic_folder(place, holds=["name"])) / "name").write_text("second")
    with atomic_folder(place, holds=["name"]) as theirs:
        (theirs / "name").write_text("first")
    with pytest.raises(EnhanceError, match="meanwhile"):
        late.close()
    assert (place / "name").read_text() == "first"
    with atomic_folder(place, holds=["n*"], force=True) as ours:
        (ours / "name").write_text("third")
    assert (place / "name").read_text() == "third"
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize("how", ["folder", "link", "."])
def test_only_what_was_made_so_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    place = tmp_path / "corpus"
    place.mkdir()
    (place / "a.wav").write_text("precious")
    (tmp_path / "link").symlink_to(place)
    monkeypatch.chdir(place)
    given = {"folder": place, "link": tmp_path / "link", ".": Path()}[how]
    for holds, reads, refusal in (
        (["*.wav"], [place], "holds what is read"),
        (["*.wav"], [place / "a.wav"], "holds what is read"),
        (["*.flac"], [], r"holds a\.wav, which was not made by this command"),
    ):
        with (
            pytest.raises(EnhanceError, match=refusal),
            atomic_folder(given, holds=holds, reads=reads, force=True),
        ):
            raise AssertionError("never begun")
    with atomic_folder(given, holds=["*.wav"], reads=[tmp_path / "other"], force=True) as made:
        (made / "b.wav").write_text("new")
    assert [path.name for path in (place if how == "." else given).iterdir()] == ["b.wav"]
    assert [path.name for path in place.iterdir()] == ["a.wav" if how == "link" else "b.wav"]
    assert {path.name for path in tmp_path.iterdir()} == {"corpus", "link"}


def test_a_file_that_is_replaced_leaves_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "private.wav"
    path.touch(0o600)
    with atomic(path) as temporary:
        temporary.write_text("new")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("new", 0o600)


def test_without_force_a_file_made_meanwhile_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    late = contextlib.ExitStack()
    late.enter_context(atomic(path, force=False)).write_text("second")
    path.write_text("first")
    with pytest.raises(EnhanceError, match="meanwhile"):
        late.close()
    assert path.read_text() == "first"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.wav"]


def test_a_device_is_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/null")
    for other in (tmp_path / "pipe", tmp_path / "link", Path("/dev/null")):
        with pytest.raises(EnhanceError, match="is a device or a pipe"), atomic(other):
            raise AssertionError("never begun")

"""``POOLMGR_VOLUME``: the one directory that others may write to by its mode. Its owner, and all else, still count."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from poolmgr.errors import SettingsError
from poolmgr.launch.ownership import objection
from poolmgr.settings import load

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root, to make files of another user")


@pytest.fixture
def volume(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pod's volume, as Kubernetes makes one."""
    made = short_dir / "volume"
    made.mkdir()
    made.chmod(0o777)
    monkeypatch.setenv("POOLMGR_VOLUME", str(made))
    return made


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777, 0o2777, 0o700])
def test_the_mode_of_the_volume_is_not_asked(volume: Path, mode: int) -> None:
    volume.chmod(mode)
    (volume / "ours").mkdir(mode=0o700)
    assert objection(str(volume / "ours" / "s")) == ""
    assert objection(str(volume / "s")) == "", "nor where the socket is in it"


def test_without_the_setting_it_is_and_the_error_names_the_setting(
    volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (volume / "ours").mkdir(mode=0o700)
    monkeypatch.delenv("POOLMGR_VOLUME")
    assert f"POOLMGR_VOLUME={volume}" in objection(str(volume / "ours" / "s"))
    assert "can be written to by others" in objection(str(volume / "s"))


def test_directories_below_and_above_the_volume_are_still_asked(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    below = volume / "open"
    below.mkdir()
    below.chmod(0o777)
    assert f"{below} (of " in objection(str(below / "s"))
    (below / "ours").mkdir(mode=0o700)
    assert f"{below} (of " in objection(str(below / "ours" / "s"))
    monkeypatch.setenv("POOLMGR_VOLUME", str(below))
    assert f"{volume} (of " in objection(str(below / "ours" / "s"))


@pytest.mark.root
@needs_root
@pytest.mark.parametrize("mode", [0o777, 0o700])
@pytest.mark.parametrize("other", [12345, 65534])
def test_a_volume_of_another_user_is_refused(volume: Path, mode: int, other: int) -> None:
    """65534 is how a user namespace shows root outside of it: trusted above the socket's directory, but with no mode
    that lets others in."""
    (volume / "ours").mkdir(mode=0o700)
    volume.chmod(mode)
    os.chown(volume, other, -1)
    for path in (volume / "s", volume / "ours" / "s"):
        assert f"{volume} belongs to " in objection(str(path))


@pytest.mark.root
@needs_root
def test_a_file_of_another_user_in_the_volume_is_refused(volume: Path) -> None:
    (volume / "s.snapshot").touch()
    os.chown(volume / "s.snapshot", 12345, -1)
    assert "s.snapshot belongs to uid 12345" in objection(str(volume / "s"))


def test_a_relative_path_names_no_volume(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process would read it from where it is."""
    monkeypatch.chdir(volume.parent)
    monkeypatch.setenv("POOLMGR_VOLUME", volume.name)
    assert "can be written to by others" in objection(str(volume / "s"))
    with pytest.raises(SettingsError, match="POOLMGR_VOLUME.*not an absolute path"):
        load({"POOLMGR_VOLUME": volume.name})


def test_what_is_no_directory_exempts_nothing(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = volume / "file"
    file.touch()
    for named in (file, volume / "absent", volume / "file" / "below"):
        monkeypatch.setenv("POOLMGR_VOLUME", str(named))
        assert "can be written to by others" in objection(str(volume / "s"))


def test_other_spellings_of_the_volume_are_the_same(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (volume.parent / "link").symlink_to(volume)
    for named in (f"{volume}/", f" {volume} ", str(volume.parent / "link"), f"{volume}/../{volume.name}"):
        monkeypatch.setenv("POOLMGR_VOLUME", named)
        assert objection(str(volume / "s")) == "", named
    load({"POOLMGR_VOLUME": f"{volume}/"})

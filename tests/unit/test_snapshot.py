"""The snapshot file: what a successor may find, and when it must not believe it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import msgspec
import pytest

from poolmgr import identity
from poolmgr.budget.accounts import Identity, Saved, SavedMember, SavedServer
from poolmgr.supervisor import snapshot
from poolmgr.supervisor.snapshot import SupersededError, UnusableError, Writer, read


def saved(budget: int = 12, members: int = 1) -> Saved:
    return Saved(
        owner=Identity("pm1.owner", 7, 70),
        servers=(SavedServer("tcp://a:1", ("tcp://a:1",), "run", budget, None, 1),),
        members=tuple(SavedMember(Identity(f"tag-{i}", 100 + i, 5), {"tcp://a:1": 3}) for i in range(members)),
    )


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "s.snapshot")


def writer(path: str) -> Writer:
    return Writer(path, "scope", lambda: True)


def test_what_was_written_last_is_read(path: str) -> None:
    w = writer(path)
    for budget in range(1, 8):
        w.write(saved(budget))
        assert read(path, "scope") == saved(budget)


def test_no_file_is_no_snapshot(path: str) -> None:
    assert read(path, "scope") is None


def test_a_torn_slot_leaves_the_one_before(path: str) -> None:
    w = writer(path)
    w.write(saved(1))
    w.write(saved(2))
    data = bytearray(Path(path).read_bytes())
    newest = 0 if data[12:20] > data[len(data) // 2 + 12 : len(data) // 2 + 20] else len(data) // 2
    for cut in range(28, 80):
        torn = bytearray(data)
        torn[newest + cut] ^= 0xFF
        Path(path).write_bytes(torn)
        assert read(path, "scope") == saved(1)


def test_it_grows_and_is_still_whole(path: str) -> None:
    w = writer(path)
    w.write(saved(1))
    small = os.path.getsize(path)
    w.write(saved(2, members=4000))
    assert os.path.getsize(path) > small
    assert read(path, "scope") == saved(2, members=4000)
    w.write(saved(3))
    assert read(path, "scope") == saved(3)


def test_a_successor_continues_over_the_file_of_the_one_before(path: str) -> None:
    writer(path).write(saved(1))
    second = writer(path)
    second.write(saved(2))
    second.write(saved(3))
    assert read(path, "scope") == saved(3)


@pytest.mark.parametrize("size", [0, 3, 23, 30, 100, 1000, 1 << 16, (1 << 17) - 1])
@pytest.mark.parametrize("writes", [1, 2, 3])
def test_a_truncated_file_is_unusable(path: str, size: int, writes: int) -> None:
    """Also where one slot is still whole: the other one may have been the newer, and told."""
    w = writer(path)
    for budget in range(writes):
        w.write(saved(1 + budget))
    data = Path(path).read_bytes()
    assert len(data) == 1 << 17
    Path(path).write_bytes(data[:size])
    with pytest.raises(UnusableError) as error:
        read(path, "scope")
    assert error.value.reason == "truncated"


def test_every_reason_is_told_apart(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def reason(scope: str = "scope") -> str:
        with pytest.raises(UnusableError) as error:
            read(path, scope)
        return error.value.reason

    writer(path).write(saved())
    assert reason("another") == "scope"
    with monkeypatch.context() as patch:
        patch.setattr(identity, "boot", lambda: "ffffff")
        assert reason() == "boot"
    with monkeypatch.context() as patch:
        patch.setattr(identity, "pid_namespace", lambda: 1)
        assert reason() == "namespace"
    with monkeypatch.context() as patch:
        patch.setattr(snapshot, "FORMAT", snapshot.FORMAT + 1)
        assert reason() == "version"
    Path(path).write_bytes(os.urandom(1 << 17))
    assert reason() == "truncated"
    Path(path).unlink()
    Path(path).mkdir()
    assert reason() == "unreadable"


def test_contents_of_another_shape_are_another_version(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(snapshot, "_encoder", msgspec.msgpack.Encoder(enc_hook=str))
        patch.setattr(snapshot, "Contents", lambda *_: {"something": "else"})
        writer(path).write(saved())
    with pytest.raises(UnusableError) as error:
        read(path, "scope")
    assert error.value.reason == "version"


def test_nothing_is_written_once_the_lock_is_not_ours(path: str) -> None:
    mine = True
    w = Writer(path, "scope", lambda: mine)
    w.write(saved(1))
    mine = False
    with pytest.raises(SupersededError):
        w.write(saved(2))
    w.remove()
    assert read(path, "scope") == saved(1)


def test_a_full_disk_leaves_the_one_before_and_later_writes_go_on(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    w = writer(path)
    w.write(saved(1))
    with monkeypatch.context() as patch:

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(OSError, match="No space"):
            w.write(saved(2, members=5000))
        assert read(path, "scope") == saved(1)
        w.write(saved(3))  # in place: its room is its own
        assert read(path, "scope") == saved(3)


def test_a_file_that_was_taken_away_is_made_anew(path: str) -> None:
    w = writer(path)
    w.write(saved(1))
    Path(path).unlink()
    w.write(saved(2))
    assert read(path, "scope") == saved(2)


def test_it_can_be_read_by_its_owner_only(path: str) -> None:
    writer(path).write(saved())
    assert os.stat(path).st_mode & 0o777 == 0o600

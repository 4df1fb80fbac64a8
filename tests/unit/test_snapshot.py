"""The snapshot file: what a successor may find, and when it must not believe it."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

from poolmgr import own_tag
from poolmgr.budget.accounts import Identity, Saved, SavedMember, SavedQuarantine, SavedServer
from poolmgr.fleet.lease import SavedLease
from poolmgr.kernel import processes
from poolmgr.supervisor.disk import snapshot
from poolmgr.supervisor.disk.snapshot import SupersededError, UnusableError, Writer, mark, marked, read


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
    return Writer(path, "scope", lambda: True, lambda _: None)


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


def numbered(path: str, noted: list[bytes]) -> Writer:
    """One that keeps its marks in a list."""
    return Writer(path, "scope", lambda: True, noted.append)


def test_an_older_one_that_was_put_back_is_not_believed(path: str) -> None:
    noted: list[bytes] = []
    w = numbered(path, noted)
    w.write(saved(1))
    old = Path(path).read_bytes()
    w.write(saved(2))
    newest = marked(noted[-1])
    assert read(path, "scope", newest) == saved(2)
    Path(path).write_bytes(old)
    with pytest.raises(UnusableError) as error:
        read(path, "scope", newest)
    assert error.value.reason == "older"


def test_numbers_grow_from_one_supervisor_to_the_next(path: str) -> None:
    """Else an old one of an earlier supervisor's could be newer than the newest."""
    noted: list[bytes] = []
    first = numbered(path, noted)
    for budget in range(1, 6):
        first.write(saved(budget))
    old = Path(path).read_bytes()
    second = numbered(path, noted)
    second.write(saved(9))
    assert [marked(text) for text in noted] == [1, 2, 3, 4, 5, 6]
    Path(path).write_bytes(old)
    third = numbered(path, noted)
    third.continue_after(6)  # what the lock file says
    third.write(saved(10))
    assert marked(noted[-1]) == 7
    assert read(path, "scope", 7) == saved(10)


def test_one_that_was_written_when_its_number_could_not_be_noted_is_good(path: str) -> None:
    """It was killed between the two, before anything was told; or that file cannot be written."""
    noted: list[bytes] = []
    numbered(path, noted).write(saved(1))

    def fails(_: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    w = Writer(path, "scope", lambda: True, fails)
    with pytest.raises(OSError, match="No space"):
        w.write(saved(2))
    assert read(path, "scope", marked(noted[-1])) == saved(2)
    with pytest.raises(OSError, match="No space"):
        w.write(saved(3))
    assert read(path, "scope", marked(noted[-1])) == saved(3)


def test_a_damaged_newest_slot_is_not_made_good_by_the_one_before(path: str) -> None:
    noted: list[bytes] = []
    w = numbered(path, noted)
    w.write(saved(1))
    w.write(saved(2))
    data = bytearray(Path(path).read_bytes())
    data[60] ^= 0xFF
    Path(path).write_bytes(data)
    assert read(path, "scope") == saved(1), "for a writer that was killed while it wrote"
    with pytest.raises(UnusableError, match="its number is 1 and not 2"):
        read(path, "scope", marked(noted[-1]))


def test_one_that_was_taken_away_is_missed(path: str) -> None:
    with pytest.raises(UnusableError) as error:
        read(path, "scope", 3)
    assert error.value.reason == "missing"


def test_after_its_own_end_nothing_is_missed(path: str) -> None:
    noted: list[bytes] = []
    w = numbered(path, noted)
    w.write(saved(1))
    w.remove()
    assert read(path, "scope", marked(noted[-1])) is None


def test_a_mark_of_another_boot_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    text = mark(7)
    assert marked(text) == 7
    assert marked(b"") == 0
    assert len({len(mark(number)) for number in (0, 9, 10**12)}) == 1, "each is written over the one before"
    monkeypatch.setattr(own_tag, "boot", lambda: "ffffff")
    assert marked(text) == 0


@pytest.mark.parametrize("text", [b"x", b"\0" * 28, mark(7)[:-1], mark(7) + mark(7)])
def test_a_mark_that_is_none_makes_every_snapshot_doubtful(text: bytes) -> None:
    with pytest.raises(UnusableError) as error:
        marked(text)
    assert error.value.reason == "older"


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

    writer(path).write(msgspec.structs.replace(saved(), scopes=("scope",)))
    assert reason("another") == "scope"
    with monkeypatch.context() as patch:
        patch.setattr(own_tag, "boot", lambda: "ffffff")
        assert reason() == "boot"
    with monkeypatch.context() as patch:
        patch.setattr(processes, "namespaces", lambda: 1)
        assert reason() == "namespace"
    with monkeypatch.context() as patch:
        patch.setattr(snapshot, "READABLE", frozenset({snapshot.WITH_LEASES + 1}))
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


class Quarantine010(msgspec.Struct, frozen=True):
    """As version 0.1.0 wrote and read it."""

    tag: str
    charge: int
    age: float
    exited: bool = True


class Server010(msgspec.Struct, frozen=True):
    id: str
    aliases: tuple[str, ...]
    run_id: str
    budget: int
    operator: str | None
    own: int
    quarantine: tuple[Quarantine010, ...] = ()
    search: bool = False
    lease: ClassVar[None] = None  # it knows of none: neither written nor read


class Saved010(msgspec.Struct, frozen=True):
    owner: Identity
    servers: tuple[Server010, ...] = ()
    members: tuple[SavedMember, ...] = ()
    restarts: int = 0
    partial: bool = False


class Contents010(msgspec.Struct, frozen=True):
    boot: str
    namespace: int
    scope: str
    saved: Saved010


def test_version_0_1_0_reads_what_this_one_writes_and_this_one_what_that_has_written(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rollback needs no census. What 0.1.0 does not say is not known: nobody is killed for it."""
    left = SavedQuarantine("tag-9", 2, 1.0, registered=True)
    server = msgspec.structs.replace(saved().servers[0], quarantine=(left,))
    here = msgspec.structs.replace(saved(), servers=(server,), scopes=("0123456789abcdef",))
    writer(path).write(here)
    with monkeypatch.context() as patch:
        patch.setattr(snapshot, "_decoder", msgspec.msgpack.Decoder(Contents010))
        before: Any = read(path)
    assert (before.owner, before.members) == (here.owner, here.members)
    assert before.servers[0].quarantine == (Quarantine010("tag-9", 2, 1.0),)
    with monkeypatch.context() as patch:
        patch.setattr(snapshot, "Contents", Contents010)
        writer(path).write(before)
    after = read(path, "0123456789abcdef")
    assert after is not None
    assert after.members == here.members
    assert after.scopes == ()
    assert after.servers[0].quarantine == (msgspec.structs.replace(left, registered=False),)


def test_nothing_is_written_once_the_lock_is_not_ours(path: str) -> None:
    mine = True
    w = Writer(path, "scope", lambda: mine, lambda _: None)
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


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"members": (SavedMember(Identity("x", 1, 5), {"tcp://b:1": 3}),)}, "x is charged for a server"),
        ({"members": (SavedMember(Identity("x", 1, 5), {"tcp://a:1": -3}),)}, "a charge of x is below 0"),
        ({"members": (SavedMember(Identity("x", 1, 5), {}),) * 2}, "a process is listed twice"),
        (
            {"servers": (SavedServer("tcp://a:1", (), "run", 12, None, 1),) * 2, "members": ()},
            "a server is listed twice",
        ),
        ({"servers": (SavedServer("tcp://a:1", (), "run", 12, None, -1),)}, "a number of tcp://a:1 is below 0"),
        (
            {"servers": (SavedServer("tcp://a:1", (), "run", 12, None, 1, (SavedQuarantine("x", 1, float("nan")),)),)},
            "a time of tcp://a:1 is below 0, or has no end",
        ),
        (
            {"servers": (SavedServer("tcp://a:1", (), "run", 12, None, 1, (SavedQuarantine("x", 1, float("inf")),)),)},
            "a time of tcp://a:1 is below 0, or has no end",
        ),
        ({"restarts": -1}, "the number of restarts is below 0"),
    ],
)
def test_what_no_ledger_could_have_written_is_not_believed(path: str, wrong: dict[str, Any], says: str) -> None:
    """A supervisor that believed it failed at each start (found by the fuzzer)."""
    writer(path).write(msgspec.structs.replace(saved(), **wrong))
    with pytest.raises(UnusableError, match=says) as error:
        read(path, "scope")
    assert error.value.reason == "version"


def test_a_lease_survives_and_a_version_that_knows_of_no_fleet_does_not_read_it(path: str) -> None:
    lease = SavedLease("0123456789", "1.a.2", link=3, word=4, until=5)
    before = saved()
    with_lease = msgspec.structs.replace(
        before, servers=(msgspec.structs.replace(before.servers[0], lease=lease), *before.servers[1:])
    )
    out = writer(path)
    out.write(with_lease)
    found = read(path)
    assert found is not None and found.servers[0].lease == lease
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshot, "READABLE", frozenset({snapshot.FORMAT}))
        with pytest.raises(UnusableError) as error:
            read(path)
    assert error.value.reason == "version"
    out.write(before)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshot, "READABLE", frozenset({snapshot.FORMAT}))
        assert read(path) == before

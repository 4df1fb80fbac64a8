"""One supervisor for each socket path, however many are started and whatever lies in their place."""

from __future__ import annotations

from pathlib import Path

from tests.helpers import Servers, wait_for
from tests.supervisor_process import Start, SupervisorProcess, joined


def test_the_second_of_two_supervisors_ends_at_once(supervisor: Start) -> None:
    running = supervisor()
    others = [running.spawn(running.environ) for _ in range(3)]
    assert [other.wait(10) for other in others] == [0, 0, 0]
    assert running.running
    assert running.status()["pid"] == running.pid


def test_of_twenty_started_at_once_one_survives(short_dir: Path) -> None:
    one = SupervisorProcess(str(short_dir / "s"), POOLMGR_LINGER="60")
    processes = [one.spawn({**one.environ}) for _ in range(20)]
    try:
        wait_for(lambda: sum(p.poll() is None for p in processes) == 1, 30, what="one survives")
        assert sorted(p.poll() or 0 for p in processes) == [0] * 20
        wait_for(one.accepts)
        assert one.status()["pid"] in [p.pid for p in processes if p.poll() is None]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_a_stale_socket_file_is_replaced(supervisor: Start, redis_server: Servers) -> None:
    running = supervisor()
    running.kill()
    assert Path(running.path).exists()
    running.start()
    member, name = joined(running, redis_server(maxclients=13))
    assert member.limit(name) > 0


def test_something_that_is_no_socket_is_not_removed(short_dir: Path) -> None:
    path = short_dir / "s"
    path.write_text("precious")
    process = SupervisorProcess(str(path))
    assert process.spawn(process.environ).wait(10) == 1
    assert path.read_text() == "precious"
    assert "is not a socket" in process.log.read_text()


def test_a_lock_that_was_taken_away_ends_it_without_a_trace(supervisor: Start, redis_server: Servers) -> None:
    running = supervisor(12)
    member, name = joined(running, redis_server(maxclients=13))
    member.grow(name, 3)
    snapshot = Path(running.path + ".snapshot").read_bytes()
    Path(running.path + ".lock").unlink()
    assert running.wait() == 0
    assert Path(running.path).exists()
    assert Path(running.path + ".snapshot").read_bytes() == snapshot

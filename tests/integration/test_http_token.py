"""The made token is the same for as long as the service lives, whatever becomes of its file."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers import RedisServer, free_port, kill, wait_for
from tests.service import Service, nothing_is_left, renewed


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """Whose files are not in the service's directory."""
    directory = Path(tempfile.mkdtemp(prefix="pm-", dir="/tmp"))
    found = RedisServer(directory, port=free_port()).start()
    yield found
    found.stop()
    shutil.rmtree(directory)


@pytest.fixture
def service(make: Callable[..., Service], server: RedisServer) -> Service:
    return make(redis_url=server.url).start()


def lets_in(service: Service, token: str) -> bool:
    answers = {service.post(["PING"], headers={"Authorization": f"Bearer {token}"}).status for _ in range(6)}
    assert len(answers) == 1, "all workers are of one mind"
    return answers == {200}


def reload(service: Service) -> None:
    before = set(service.workers())
    service.send(signal.SIGHUP)
    renewed(service, before)


def upgrade(service: Service) -> None:
    service.upgrade()
    service.stop(signal.SIGTERM, 15)


def lose_a_worker(service: Service) -> None:
    before = set(service.workers())
    for pid in before:
        kill(pid)
    renewed(service, before)


@pytest.mark.parametrize("what", ["file", "directory"])
@pytest.mark.parametrize("event", [reload, upgrade, lose_a_worker])
def test_it_stays_the_same_though_its_file_was_removed(service: Service, event, what: str) -> None:
    token = service.token
    if what == "file":
        (service.directory / "token").unlink()
    else:
        shutil.rmtree(service.directory)
    event(service)
    assert lets_in(service, token)
    wait_for((service.directory / "token").exists, 10)
    assert service.token == token, "it can be read again"
    assert os.stat(service.directory / "token").st_mode & 0o777 == 0o600
    (line,) = service.events("worker.token_lost")
    assert line["level"] == "warning"
    assert line["path"] == str(service.directory / "token")
    assert token not in service.log


def test_another_one_in_its_file_is_told_of(service: Service) -> None:
    """Two that share a directory, one of them started after its cleaning."""
    token = service.token
    (service.directory / "token").unlink()
    (service.directory / "token").write_text("another-one\n")
    reload(service)
    reload(service)
    assert lets_in(service, token)
    assert not lets_in(service, "another-one")
    assert {line["level"] for line in service.events("worker.token_differs")} == {"error"}
    assert service.token == "another-one", "it is not ours to overwrite"
    assert token not in service.log and "another-one" not in service.log
    service.stop()
    assert service.token == "another-one", "nor to remove"


def test_an_edited_file_is_told_of(service: Service) -> None:
    token = service.token
    (service.directory / "token").write_text("another-one\n")
    reload(service)
    assert lets_in(service, token)
    assert service.events("worker.token_differs")


def test_a_new_one_is_told_from_one_that_was_found(make: Callable[..., Service], server: RedisServer) -> None:
    """After an end without a goodbye a start goes on with it; if that is not so, the log says so."""
    service = make(redis_url=server.url).start()
    token = service.token
    for pid in [service.pid, *service.workers()]:
        kill(pid)
    wait_for(lambda: not service.processes(), 15)
    service.start()
    assert service.token == token
    assert [line["made"] for line in service.events("worker.token")] == [True, False]


def test_it_is_in_no_line_wherever_a_caller_puts_it(service: Service) -> None:
    """Where no token belongs, too; the one that replaces a lost worker knows it as well."""

    def misplace() -> None:
        token = service.token
        encoded = "".join(f"%{ord(character):02x}" for character in token)
        for target in (f"/get/{token}", f"/{encoded}", f"/get/k?token_={token}", f"/?a={encoded}"):
            service.get(target, headers={"User-Agent": f"curl {token}"})
        for line in (
            *(f"GET / {token} HTTP/1.1", f"{token} / HTTP/1.1", f"GET / HTTP/{token}", f"GET / HTTP/1.1\r\n{token}"),
            *(f"GET / HTTP/1.1\r\n{name}: {token}" for name in ("Transfer-Encoding", "Content-Length", "Expect")),
        ):
            with socket.create_connection(("127.0.0.1", service.port), timeout=15) as caller:
                caller.sendall(f"{line}\r\n\r\n".encode())
                while caller.recv(65536):
                    pass

    misplace()
    lose_a_worker(service)
    misplace()
    service.stop()
    assert service.log.count("***") >= 2 * 2 * 4
    assert token_parts(service) == []


def token_parts(service: Service) -> list[str]:
    """The log's lines with a token in them that was made: a word of 43 such characters."""
    return [line for line in service.log.splitlines() if re.search(r"[\w-]{43}|(%[0-9a-f]{2}){43}", line)]


def test_nothing_is_left(service: Service) -> None:
    (service.directory / "token").unlink()
    reload(service)
    service.stop()
    wait_for(lambda: nothing_is_left(service), 10)


@pytest.fixture
def below() -> Iterator[Path]:
    """A directory for what a cleaner is set upon."""
    found = Path(tempfile.mkdtemp(prefix="pm-", dir="/tmp"))
    yield found
    shutil.rmtree(found, ignore_errors=True)


def test_a_cleaner_of_tmp_leaves_it_alone(below: Path, tmp_path: Path) -> None:
    cleaner = shutil.which("systemd-tmpfiles")
    if cleaner is None:
        pytest.skip("systemd-tmpfiles is not installed (apt install systemd)")
    rules = tmp_path / "rules.conf"
    rules.write_text(f"d {below} 0700 - - m:1h\n")

    def clean() -> None:
        for path in sorted(below.rglob("*"), reverse=True):
            if not path.is_socket():
                subprocess.run(["touch", "-d", "3 days ago", path], check=True)
        subprocess.run([cleaner, "--clean", rules], check=True)

    (below / "other").mkdir(mode=0o700)
    (below / "other" / "file").touch()
    (below / "s").mkdir(mode=0o700)
    service = Service(below / "s").start()  # with an embedded server, whose files are there too
    try:
        service.ask("SET", "k", "v")
        files = service.files()
        clean()
        assert not (below / "other" / "file").exists(), "it does remove what is old"
        assert service.files() == files
        assert service.ask("GET", "k").json == {"result": "v"}
        service.stop()
        wait_for(lambda: nothing_is_left(service), 10)
    finally:
        service.clean_up()


def test_a_token_from_a_file_is_followed_by_all_workers_and_no_file_is_made(
    make: Callable[..., Service], server: RedisServer, tmp_path: Path
) -> None:
    secret = tmp_path / "token"
    secret.write_text("token-of-monday\n")
    service = make(redis_url=server.url, environ={"WORKER_TOKEN": None, "WORKER_TOKEN_FILE": str(secret)}).start()
    assert lets_in(service, "token-of-monday")
    (tmp_path / "new").write_text("token-of-tuesday\n")
    (tmp_path / "new").rename(secret)
    wait_for(lambda: all(answered(service, "token-of-tuesday") for _ in range(6)), 10)
    wait_for(lambda: not any(answered(service, "token-of-monday") for _ in range(6)), 10)
    secret.write_text("")
    wait_for(lambda: answered(service, "token-of-tuesday") and service.events("worker.token_file"), 10)
    headers = {"Authorization": "Bearer token-of-monday"}
    assert service.post(["PING"], headers=headers).status == 401
    lose_a_worker(service)
    assert service.post(["PING"], headers=headers).status == 503, "a token that was replaced does not come back"
    assert not (service.directory / "token").exists()
    assert "token-of" not in service.log


def answered(service: Service, token: str) -> bool:
    return service.post(["PING"], headers={"Authorization": f"Bearer {token}"}).status == 200

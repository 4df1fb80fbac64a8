"""One image for all tests of this folder, and pods for each of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import pytest

from tests.containers import image as images
from tests.containers.container import Pod
from tests.containers.reach import connect
from tests.helpers import server_binary, wait_for
from tests.matrix import roots

PORT = 6379

Pods = Callable[..., Pod]


@pytest.fixture(scope="session")
def image() -> images.Image:
    """Built of the Dockerfile's steps."""
    if sys.platform != "linux":
        pytest.skip("containers need Linux")
    try:
        roots.check()
        return images.build()
    except roots.UnavailableError as error:
        pytest.skip(f"no image can be made here: {error}")


@pytest.fixture
def pods(image: images.Image) -> Iterator[Pods]:
    """Starts pods."""
    made: list[Pod] = []

    def start(**options: bool | str) -> Pod:
        made.append(Pod(**options))  # type: ignore[arg-type]
        return made[-1]

    yield start
    for pod in made:
        pod.end()


class Server:
    """A Redis server in a pod's network, with room for a budget and one observer."""

    def __init__(self, pod: Pod, budget: int) -> None:
        self.pod = pod
        self.process = pod.inside(
            server_binary(), "--port", str(PORT), "--bind", "127.0.0.1", "--save", "", "--maxclients", str(budget + 1),
            "--dir", str(pod.home), stdin=-3, stdout=-3,
        )  # fmt: skip
        wait_for(self.answers, 10, what="the server answers")

    def answers(self) -> bool:
        try:
            connect(self.pod.pid, PORT).close()
        except OSError:
            return False
        return True

    def info(self, name: str) -> int:
        sock = connect(self.pod.pid, PORT)
        with sock, sock.makefile("rwb") as stream:
            stream.write(b"INFO\r\n")
            stream.flush()
            text = stream.read(int(stream.readline()[1:])).decode()
        (line,) = [line for line in text.splitlines() if line.startswith(f"{name}:")]
        return int(line.partition(":")[2])

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(10)


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Starts servers in pods."""
    made: list[Server] = []

    def start(pod: Pod, budget: int = 8) -> Server:
        made.append(Server(pod, budget))
        return made[-1]

    yield start
    for server in made:
        server.stop()

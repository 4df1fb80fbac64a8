"""``python -m tests.fuzz.faults [TARGET]...``: plant a fault in a reader of foreign bytes, play the target's corpus and
see the fault found; then the next one. A target that finds none of a kind has no second description of what it reads.

Each fault is planted in a process of its own, in what is imported there: no file changes.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType
from typing import Any, NamedTuple

import msgspec
import redis.asyncio

__all__ = ["msgspec", "redis"]  # loaded before the forks

FRAMES, WIRE, TAGS = "poolmgr.frames", "poolmgr.wire", "poolmgr.tags"
SNAPSHOT, RECOVERY = "poolmgr.supervisor.disk.snapshot", "poolmgr.budget.recovery"
PROOF, PARSERS, OPTIONS = "poolmgr.supervisor.upstreams.proof", "poolmgr.settings.parsers", "poolmgr.pool.options"


class Fault(NamedTuple):
    """What a text of a module is replaced by."""

    module: str
    right: str
    wrong: str


FAULTS: dict[str, list[Fault]] = {
    "decoder": [
        Fault(FRAMES, "if size - at - 4 < length:", "if size - at - 4 < length - 1:"),
        Fault(FRAMES, "if length > MAX_FRAME:", "if length >= MAX_FRAME:"),
        Fault(FRAMES, "if length > MAX_FRAME:", "if length > MAX_FRAME + 1:"),
        Fault(FRAMES, '">I"', '"<I"'),
        Fault(FRAMES, "at + 4 + length])", "at + 5 + length])"),
        Fault(FRAMES, "while size - at >= 4:", "while size - at > 4:"),
        Fault(WIRE, "Count = Annotated[int, Meta(ge=0, le=MOST)]", "Count = Annotated[int, Meta(le=MOST)]"),
        Fault(WIRE, "Meta(ge=0, le=MOST)", "Meta(ge=0, le=MOST + 1)"),
        Fault(WIRE, "Meta(ge=0.0)", 'Meta(title="time")'),
        Fault(WIRE, "Meta(ge=0, le=65535)", "Meta(ge=0, le=65536)"),
        Fault(WIRE, r"\A[^\x00-\x1f\x7f-\xa0\u2028\u2029\ud800-\udfff]+\Z", r"\A[^\n]+\Z"),
    ],
    "supervisor": [
        Fault(
            "poolmgr.budget.accounts",
            "return self.told[0][1]\n\n    @property\n    def returning",
            "return self.limit\n\n    @property\n    def returning",
        ),
    ],
    "snapshot": [
        Fault(SNAPSHOT, "server.budget < 0 or server.own < 0", "server.own < 0"),
        Fault(SNAPSHOT, "server.budget < 0 or server.own < 0", "server.budget < 0"),
        Fault(SNAPSHOT, "if min(member.charges.values(), default=0) < 0:", "if not saved.members:"),
        Fault(SNAPSHOT, " or any(entry.charge < 0 for entry in server.quarantine)", ""),
        Fault(SNAPSHOT, "not all(0 <= entry.age < math.inf for", "any(entry.age < 0 for"),
        Fault(SNAPSHOT, "not all(0 <= entry.age < math.inf for", "not all(0 <= entry.age for"),
        Fault(SNAPSHOT, "server.lease.word < 0 or", "server.lease.word < -1 or"),
        Fault(SNAPSHOT, "if saved.restarts < 0:", "if saved.restarts < -1:"),
        Fault(SNAPSHOT, "if len(servers) < len(saved.servers):", "if len(servers) > len(saved.servers):"),
        Fault(SNAPSHOT, " and zlib.crc32(body) == checksum", ""),
        Fault(SNAPSHOT, "len(data) == 2 * capacity and ", ""),
        Fault(SNAPSHOT, "number in READABLE and ", ""),
        Fault(SNAPSHOT, "generation > best[0]", "generation < best[0]"),
        Fault(SNAPSHOT, "if len(data) - at < _HEAD.size:", "if len(data) - at < _HEAD.size - 1:"),
        Fault(SNAPSHOT, "if contents.boot != own_tag.boot():", "if contents.boot == own_tag.boot:"),
        Fault(RECOVERY, "Account(told=[(0, charge)])", "Account(told=[(0, charge - 1)])"),
    ],
    "client_list": [
        Fault(PROOF, '.split(b"\\n")', ".splitlines()"),
        Fault(PROOF, "start = end + 1", "start = end + 2"),
        Fault(PROOF, r"age=(\d+)(?!.* name=)", r"age=(\d+)"),
        Fault(PROOF, r"addr=(\[?/.*?)(?: laddr", r"addr=(\[?/.*)(?: laddr"),
        Fault(PROOF, 'b"pm1." not in line and b" name= " not in line and', 'b"pm1." not in line and'),
        Fault(PROOF, 'self.addr.rpartition(":")', 'self.addr.partition(":")'),
        Fault(PROOF, r'rb" cmd=(\S*)"', r'rb" cmd=([^|]*)"'),
        Fault(PROOF, r'rb" lib-name=(\S*)"', r'rb" lib-name=(\w*)"'),
        Fault(PROOF, "tags.find(self.name) or tags.find(self.library)", "tags.find(self.name)"),
        Fault(PROOF, "raise UnreadableError(f", "continue\n            raise UnreadableError(f"),
        Fault(PROOF, "and row.age <= handshake", "and row.age < handshake"),
        Fault(TAGS, r"(?:-(\d+)(?:\.", r"(?:-(\d)(?:\."),
    ],
    "settings": [
        Fault(PARSERS, "if not 0 <= value <= most or", "if not 0 <= value or"),
        Fault(PARSERS, "if not 0 <= value <= most or", "if not value <= most or"),
        Fault(PARSERS, " or (value == 0 and not zero)", ""),
        Fault(PARSERS, "return math.inf if text.lower() == FOREVER else _seconds(text)", "return float(text)"),
        Fault(PARSERS, 'if not text.startswith(("redis://", "rediss://", "unix://")):', 'if ":" not in text:'),
        Fault(PARSERS, r"[\x00-\x1f\x7f]", r"[\x00-\x08]"),
        Fault(PARSERS, "if value < 2.0:", "if value < 0.0:"),
        Fault(PARSERS, "_one_or_more = whole(1)", "_one_or_more = whole(0)"),
        Fault(PARSERS, '{"": 0, "k": 10, "m": 20, "g": 30}', '{"": 0, "k": 10, "m": 20, "g": 31}'),
        Fault(PARSERS, "1 <= number <= 65535", "1 <= number <= 65536"),
        Fault(PARSERS, "if size > SOCKET_PATH_MAX:", "if size > SOCKET_PATH_MAX + 1:"),
        Fault(PARSERS, 'r"[!-~]+"', 'r"[ -~]+"'),
        Fault(PARSERS, "if found.setdefault(key, value) != value:", "found[key] = value\n        if not found:"),
        Fault(PARSERS, 'credentials, at, place = rest.rpartition("@")', 'credentials, at, place = rest.partition("@")'),
        Fault(PARSERS, 'if not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):', "if not scheme:"),
        Fault(OPTIONS, "isinstance(value, (int, float)) and value >= 0", "not value < 0"),
        Fault(OPTIONS, "isinstance(value, int) and value >= least", "isinstance(value, int)"),
        Fault(OPTIONS, "elif name not in ours:", "elif rest.append((name, value)) is None:"),
    ],
}


class Planted(SourceFileLoader):
    """Loads a module with a fault in it."""

    def __init__(self, spec: ModuleSpec, fault: Fault) -> None:
        super().__init__(spec.name, str(spec.origin))
        self._fault = fault

    def get_code(self, fullname: str) -> CodeType:
        text = self.get_data(self.path).decode()
        assert self._fault.right in text, f"{fullname} no longer has {self._fault.right!r}"
        return compile(text.replace(self._fault.right, self._fault.wrong, 1), self.path, "exec")


class Finder:
    def __init__(self, fault: Fault) -> None:
        self._fault = fault

    def find_spec(self, name: str, path: Any = None, _: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name == self._fault.module else None
        return spec and importlib.util.spec_from_file_location(name, spec.origin, loader=Planted(spec, self._fault))


def found(target: str, fault: Fault) -> bool:
    """Whether the target's corpus finds a fault."""
    child = os.fork()
    if not child:
        status = 2
        try:
            status = _play(target, fault)
        finally:
            os._exit(status)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 1), f"{fault} could not be planted"
    return code == 1


def _play(target: str, fault: Fault) -> int:
    sys.meta_path.insert(0, Finder(fault))
    from tests.fuzz import targets

    play, close = targets.load(target)
    assert fault.module in sys.modules
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        for path in targets.entries(target):
            play(path.read_bytes())
    except Exception:
        return 1
    finally:
        close()
    return 0


def missed(target: str) -> Iterator[Fault]:
    assert "poolmgr" not in sys.modules, "a fault is planted before anything of ours is loaded"
    for fault in FAULTS[target]:
        if not found(target, fault):
            yield fault


def main(names: list[str]) -> int:
    wrong = 0
    for target in names or FAULTS:
        for fault in missed(target):
            wrong = 1
            print(f"{target} does not find {fault}")
        print(f"{target}: {len(FAULTS[target])} faults planted")
    return wrong


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

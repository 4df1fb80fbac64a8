"""``install(globals())``: our hooks beside somebody's own, and none of ours ever raises."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from gunicorn.config import Config

from poolmgr.exceptions import SupervisorError
from poolmgr.gunicorn import hooks
from tests.helpers import python

NAMES = {
    "on_starting": 1,
    "on_reload": 1,
    "pre_fork": 2,
    "post_fork": 2,
    "post_worker_init": 1,
    "child_exit": 2,
    "on_exit": 1,
}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What ran, ours in capitals; ours do nothing else."""
    found: list[str] = []
    for table in (hooks._BEFORE, hooks._AFTER):
        for name, (arity, _) in table.items():
            monkeypatch.setitem(table, name, (arity, lambda *_, name=name: found.append(name.upper())))
    return found


def test_gunicorn_takes_every_hook(calls):
    space: dict[str, Any] = {}
    hooks.install(space)
    assert space.keys() == NAMES.keys()
    config = Config()
    for name, hook in space.items():
        config.set(name, hook)
        hook(*range(NAMES[name]))
    assert sorted(calls) == sorted(name.upper() for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_hooks_that_were_there_run_too(calls, name):
    space: dict[str, Any] = {
        name: (lambda server: calls.append(name)) if NAMES[name] == 1 else (lambda server, worker: calls.append(name))
    }
    hooks.install(space)
    space[name](*range(NAMES[name]))
    ours_first = name not in ("post_worker_init", "child_exit", "on_exit")
    assert calls == ([name.upper(), name] if ours_first else [name, name.upper()])


def test_a_hook_may_be_a_dotted_path(calls):
    space: dict[str, Any] = {"post_fork": "tests.unit.test_gunicorn_hooks.somebodys"}
    hooks.install(space)
    space["post_fork"](1, 2)
    assert seen == [(1, 2)]
    seen.clear()


seen: list[Any] = []


def somebodys(server: Any, worker: Any) -> None:
    seen.append((server, worker))


def test_a_hook_that_gunicorn_would_refuse_is_left_for_it_to_refuse(calls):
    wrong = lambda: None  # noqa: E731
    space: dict[str, Any] = {"post_fork": wrong}
    hooks.install(space)
    assert space["post_fork"] is wrong


def test_installing_twice_runs_ours_once(calls):
    space: dict[str, Any] = {}
    hooks.install(space)
    hooks.install(space)
    space["post_fork"](1, 2)
    assert calls == ["POST_FORK"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("error", [SupervisorError("none"), RuntimeError("a defect"), SystemExit("stop")])
def test_nothing_of_ours_is_raised(monkeypatch, caplog, name, error):
    def fail(*_: Any) -> None:
        raise error

    for table in (hooks._BEFORE, hooks._AFTER):
        if name in table:
            monkeypatch.setitem(table, name, (NAMES[name], fail))
    space: dict[str, Any] = {}
    hooks.install(space)
    if name in ("on_starting", "post_worker_init") and isinstance(error, SystemExit):
        with pytest.raises(SystemExit):
            space[name](1)
        return
    with caplog.at_level(logging.ERROR, "poolmgr"):
        space[name](*range(NAMES[name]))
    assert [record.message for record in caplog.records] == ["hook.failed"]


def test_what_somebodys_hook_raises_is_raised(calls):
    def fails(server: Any, worker: Any) -> None:
        raise ZeroDivisionError

    space: dict[str, Any] = {"post_fork": fails}
    hooks.install(space)
    with pytest.raises(ZeroDivisionError):
        space["post_fork"](1, 2)


def test_a_second_signal_does_not_strike_the_quick_shutdown_that_the_first_began():
    """gunicorn's handler takes a lock of the executor's: within itself it would wait for ever."""
    code = """if True:
        import os, signal
        from poolmgr.gunicorn.quick_shutdown import bound_quick_shutdown
        def quits(number, frame):
            print("quits", number, flush=True)
            os.kill(os.getpid(), signal.SIGQUIT)
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(10_000):
                pass
        for number in (signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, quits)
        bound_quick_shutdown()
        os.kill(os.getpid(), signal.SIGINT)"""
    ended = python(code)
    assert (ended.stdout, ended.stderr) == ("quits 2\n", "")

"""The files of deploy/systemd, as far as they can be checked without a systemd."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from poolmgr import settings
from poolmgr.settings.table import BY_NAME, VARIABLES
from tests.helpers import ROOT

UNITS = ROOT / "deploy" / "systemd"
EXAMPLE = UNITS / "environment.example"
SERVICES = ["poolmgr.service", "redis-worker.service"]


def rendered() -> str:
    found = importlib.util.spec_from_file_location("environment", UNITS / "environment.py")
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return str(module.render())


def unit(name: str) -> dict[str, dict[str, list[str]]]:
    """Sections of a unit; a name may come more than once."""
    sections: dict[str, dict[str, list[str]]] = {}
    section: dict[str, list[str]] = {}
    for line in (UNITS / name).read_text().splitlines():
        if line.startswith("["):
            section = sections.setdefault(line.strip("[]"), {})
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            section.setdefault(key, []).append(value)
    return sections


def environment(name: str) -> dict[str, str]:
    words = " ".join(unit(name)["Service"]["Environment"]).split()
    return dict(word.split("=", 1) for word in words)


def test_the_example_environment_is_made_from_the_table_of_variables():
    assert EXAMPLE.read_text() == rendered(), (
        "run: python deploy/systemd/environment.py >deploy/systemd/environment.example"
    )


def test_every_variable_stands_in_the_example_once_and_its_value_is_accepted():
    lines = re.findall(r"^#([A-Z_]+)=(.*)$", EXAMPLE.read_text(), re.MULTILINE)
    assert [name for name, _ in lines] == [variable.name for variable in VARIABLES]
    for name, value in lines:
        if value:
            BY_NAME[name].read(value)


def test_what_the_units_set_themselves_is_known_and_accepted():
    for name in SERVICES:
        found = environment(name)
        assert set(found) <= set(BY_NAME)
        loaded = settings.load(found)
        assert loaded.socket == unit("poolmgr.socket")["Socket"]["ListenStream"][0]
    assert settings.load(environment("redis-worker.service")).autostart is False
    assert settings.load(environment("poolmgr.service")).metrics == "127.0.0.1:9108"


def test_the_units_agree_about_user_directory_and_file():
    supervisor, worker, sock = (unit(name) for name in (*SERVICES, "poolmgr.socket"))
    assert supervisor["Service"]["User"] == worker["Service"]["User"] == sock["Socket"]["SocketUser"]
    assert f"u {supervisor['Service']['User'][0]} " in (UNITS / "sysusers.conf").read_text()
    assert supervisor["Service"]["EnvironmentFile"] == worker["Service"]["EnvironmentFile"]
    directory = "/run/" + supervisor["Service"]["RuntimeDirectory"][0]
    assert str(Path(sock["Socket"]["ListenStream"][0]).parent) == directory
    assert worker["Service"]["ReadWritePaths"] == [directory]


def test_the_watchdog_is_quicker_than_a_caller_waits_for_a_connection():
    (text,) = unit("poolmgr.service")["Service"]["WatchdogSec"]
    assert float(text.removesuffix("s")) < settings.load({}).pool_timeout


def test_gunicorn_gets_more_time_to_stop_than_it_gives_its_workers():
    from gunicorn.config import GracefulTimeout

    (text,) = unit("redis-worker.service")["Service"]["TimeoutStopSec"]
    assert float(text.removesuffix("s")) > GracefulTimeout.default


@pytest.mark.parametrize("name", SERVICES)
def test_systemd_finds_a_service_hardened(name: str):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--no-pager", UNITS / name], capture_output=True, text=True
    )
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze cannot judge files (before 250)")
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert float(found[1]) <= 1.5, done.stdout


def test_both_services_are_hardened_alike():
    """Memory and requests of callers are in both processes, so neither is weaker than the other, nor dumps its core."""
    supervisor, worker = (unit(name)["Service"] for name in SERVICES)
    alike = {
        key for key in supervisor if key.startswith(("Protect", "Private", "Restrict", "System", "Memory", "Lock"))
    }
    alike |= {"LimitCORE", "NoNewPrivileges", "UMask", "CapabilityBoundingSet", "AmbientCapabilities", "RemoveIPC"}
    assert len(alike) > 20
    assert {key: worker.get(key) for key in alike} == {key: supervisor.get(key) for key in alike}
    assert worker["LimitCORE"] == ["0"]


def test_the_workers_memory_is_explained_with_the_right_numbers():
    text = (UNITS / "redis-worker.service").read_text()
    (most,) = re.findall(r"^#MemoryMax=(\d+)G$", text, re.MULTILINE)
    found = settings.load({})
    workers, threads = map(int, re.findall(r"(\d+) workers with (\d+) threads", text)[0])
    assert threads == found.worker_threads
    callers = threads * 4 * found.worker_max_reply + (64 << 20)
    assert 0 < int(most) * 2**30 - workers * callers < 1 << 30
    assert unit("redis-worker.service")["Service"]["OOMPolicy"] == ["continue"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_does_not_hide_members_from_the_supervisor(name: str):
    assert not {"PrivateUsers", "ProtectProc", "ProcSubset"} & set(unit(name)["Service"])

"""The services under a real systemd, installed as the README says. The tests run in this order."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.helpers import ROOT, wait_for
from tests.stopwatch import Stopwatch
from tests.systemd import wheels
from tests.systemd.conftest import BUDGET, SERVER, TOKEN, WITHOUT_NETWORK, Installed, commands

pytestmark = [pytest.mark.systemd, pytest.mark.root, pytest.mark.timeout(900)]

SERVICES = ("poolmgr.service", "redis-worker.service")
THREADS = 12

STEP = 0.2
"""Seconds between two looks that start programs in the machine."""


@contextmanager
def load(installed: Installed, *, quick: float = 8.0) -> Iterator[None]:
    """Requests all the while; none may fail, and none may take longer than ``quick`` fair seconds."""
    stop = installed.machine.share / f"stop-{time.monotonic_ns()}"
    inside = f"/opt/share/{stop.name}"
    watch = Stopwatch()
    process = installed.machine.start(f"exec /opt/redis-poolmgr/bin/python load.py {TOKEN} {THREADS} {inside}")
    try:
        before = count(installed)
        wait_for(lambda: count(installed) > before + 20, 20, what="the load runs")
        yield
    finally:
        stop.touch()
        out, err = process.communicate(timeout=120)
    assert not err
    result: dict[str, Any] = json.loads(out)
    assert result["failures"] == 0, result
    assert result["slowest"] * watch.fair() / watch.seconds() < quick, result
    assert installed.rejected() == 0


def count(installed: Installed) -> int:
    text = installed.redis("GET", "count")
    return int(text) if text.strip("-\r\n").isdigit() and not text.startswith("-") else 0


def goes_on(installed: Installed, requests: int = 50) -> None:
    """Wait until so many more were served."""
    before = count(installed)
    wait_for(lambda: count(installed) >= before + requests, 20, what=f"{requests} more requests")


def pid(installed: Installed, unit: str) -> int:
    return int(installed.machine.property(unit, "MainPID"))


def renewed(installed: Installed, before: int) -> None:
    """Wait until another supervisor is ready."""
    wait_for(lambda: pid(installed, "poolmgr.service") not in (before, 0), 15, what="a new supervisor", step=STEP)
    machine = installed.machine
    wait_for(lambda: machine.property("poolmgr.service", "ActiveState") == "active", 10, what="it is ready", step=STEP)


def replaced(installed: Installed, master: int, workers: set[str]) -> None:
    """Wait until this master has other workers alone."""

    def others_alone() -> bool:
        found = set(installed.out(f"pgrep -P {master}").split())
        return bool(found) and not workers & found

    wait_for(others_alone, 40, what="new workers alone", step=STEP)


def members(installed: Installed) -> list[dict[str, Any]]:
    """Those of the supervisor that are live, by its own word."""
    (server,) = json.loads(installed.status())["servers"] or [{"members": []}]
    return [member for member in server["members"] if member["state"] == "live"]


def joined(installed: Installed) -> int:
    return len(members(installed))


def all_connected(installed: Installed) -> bool:
    """Whichever worker a request comes to, it has a connection; asks once more."""
    installed.post('["PING"]')
    return [member["open"] > 0 for member in members(installed)] == [True, True]


# ---- just installed ------------------------------------------------------------------------------


def test_the_commands_of_the_readme_bring_up_the_service(fresh: Installed):
    assert fresh.out("systemctl is-active poolmgr.socket redis-worker.service") == "active\nactive"
    assert fresh.out("curl -sS --max-time 10 127.0.0.1:8000/readyz") == '{"status":"ok"}'
    assert fresh.out("systemctl is-enabled poolmgr.socket redis-worker.service") == "enabled\nenabled"


def test_units_are_verified_in_silence(fresh: Installed):
    done = fresh.run("systemd-analyze verify poolmgr.socket poolmgr.service redis-worker.service 2>&1")
    assert done.stdout == ""


@pytest.mark.parametrize("unit", SERVICES)
def test_a_service_is_hardened(fresh: Installed, unit: str):
    said = fresh.out(f"systemd-analyze security --no-pager {unit} | tail -1")
    found = re.search(r"exposure level for \S+: ([0-9.]+)", said)
    assert found is not None, said
    assert float(found[1]) <= 1.5


def test_everything_runs_as_the_user_of_the_service_and_nobody_else_may_enter(fresh: Installed):
    for unit in SERVICES:
        assert fresh.out(f"ps -o user= -p {pid(fresh, unit)}") == "poolmgr"
    assert fresh.out("stat -c '%U %a' /run/poolmgr /run/poolmgr/supervisor") == "poolmgr 700\npoolmgr 600"
    assert fresh.out("stat -c '%U %G %a' /etc/redis-poolmgr/environment") == "root poolmgr 640"


# ---- with a server of its own --------------------------------------------------------------------


def test_the_first_connection_starts_the_supervisor(installed: Installed):
    installed.run("systemctl stop redis-worker.service; systemctl stop poolmgr.service")
    assert installed.machine.property("poolmgr.service", "ActiveState") == "inactive"
    assert installed.machine.property("poolmgr.socket", "ActiveState") == "active"
    installed.run("systemctl start redis-worker.service")
    assert installed.machine.property("poolmgr.service", "ActiveState") == "active"
    supervisor, master = (pid(installed, unit) for unit in SERVICES)
    assert installed.out(f"ps -o ppid= -p {supervisor}").strip() == "1", "systemd has started it, and nobody else"
    assert supervisor > master


def test_starting_the_service_alone_starts_the_socket_first(installed: Installed):
    installed.run("systemctl stop redis-worker.service poolmgr.service poolmgr.socket")
    installed.run("systemctl start redis-worker.service")
    script = "systemctl show --value --property=ActiveEnterTimestampMonotonic"
    times = [int(installed.out(f"{script} {unit}")) for unit in ("poolmgr.socket", *SERVICES)]
    assert times == sorted(times)
    assert 0 not in times


def test_a_request_goes_through_the_whole(installed: Installed):
    assert json.loads(installed.post('["SET", "greeting", "hello"]')) == {"result": "OK"}
    assert installed.redis("GET", "greeting").strip() == "hello"


def test_limits_arrive(installed: Installed):
    installed.post('["PING"]')
    # The kernel of a machine may allow less (fs.nr_open, proc(5)).
    limit = str(min(65536, int(installed.out("cat /proc/sys/fs/nr_open")), int(installed.out("ulimit -Hn"))))
    for unit in SERVICES:
        limits = installed.out(f"grep 'Max open files' /proc/{pid(installed, unit)}/limits").split()
        assert limits[3:5] == [limit, limit]
    (server,) = json.loads(installed.status())["servers"]
    assert server["derivation"].startswith(f"budget {BUDGET} = ")
    assert all(0 < member["ceiling"] <= 65536 for member in server["members"])
    worker = installed.out(f"pgrep -P {pid(installed, 'redis-worker.service')} | head -1")
    assert "NoNewPrivs:\t1" in installed.out(f"cat /proc/{worker}/status")


def test_status_shows_budget_members_use_and_waiting(installed: Installed):
    installed.post('["PING"]')
    pattern = rf"budget {BUDGET}, [12] members, \d+ in use, \d+ waiting"
    wait_for(
        lambda: re.fullmatch(pattern, installed.machine.property("poolmgr.service", "StatusText")), 10, what=pattern
    )


MANUAL = (ROOT / "docs" / "operating.md").read_text()


def the_alias() -> str:
    """What the manual has people type for ``poolmgr``."""
    (found,) = re.findall(r"^# alias poolmgr='(.*)'$", MANUAL, re.MULTILINE)
    return str(found)


def chapter(title: str) -> list[str]:
    """The commands of a chapter of the manual, line by line."""
    text = MANUAL.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    (block,) = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return str(block).splitlines()


def test_the_manuals_commands_work(installed: Installed):
    (check,) = re.findall(r"^# (systemd-run .*)$", MANUAL, re.MULTILINE)
    assert installed.out(check) == ""
    alias = the_alias()
    assert "redis-worker" not in installed.out(f"{alias} config")
    status = installed.out(f"{alias} status")
    assert f"budget {BUDGET} = REDIS_CONNECTION_BUDGET" in status
    assert installed.out(f"{alias} budget 127.0.0.1:6379 {BUDGET - 1}")
    assert f"budget {BUDGET - 1} " in installed.out(f"{alias} status")
    installed.run(f"{alias} budget 127.0.0.1:6379 {BUDGET}")
    assert f"budget {BUDGET} " in installed.out(f"{alias} status")


def test_metrics_are_served_and_promtool_has_nothing_to_say(installed: Installed):
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (apt install prometheus)")
    installed.post('["PING"]')
    wait_for(lambda: "poolmgr_checkouts_total{" in installed.out("curl -sS 127.0.0.1:9108/metrics"), 10)
    text = installed.run("curl -sS 127.0.0.1:9108/metrics").stdout
    assert f'poolmgr_budget_connections{{server="tcp://127.0.0.1:6379"}} {BUDGET}.0' in text
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_reload_under_load_fails_no_request(installed: Installed):
    master = pid(installed, "redis-worker.service")
    workers = set(installed.out(f"pgrep -P {master}").split())
    with load(installed):
        installed.run("systemctl reload redis-worker.service")
        replaced(installed, master, workers)
        goes_on(installed)
    assert pid(installed, "redis-worker.service") == master


def test_a_reload_with_a_wrong_setting_is_refused_and_changes_nothing(installed: Installed):
    master = pid(installed, "redis-worker.service")
    workers = installed.out(f"pgrep -P {master}")
    installed.run(
        "cp /etc/redis-poolmgr/environment /tmp/kept; echo REDIS_POOL_TIMEOUT=soon >>/etc/redis-poolmgr/environment"
    )
    try:
        done = installed.run("systemctl reload redis-worker.service", check=False)
        assert done.returncode != 0
        assert "REDIS_POOL_TIMEOUT='soon' is not allowed" in installed.machine.journal("redis-worker.service")
        assert installed.out(f"pgrep -P {master}") == workers
    finally:
        installed.run("cp /tmp/kept /etc/redis-poolmgr/environment")


def test_a_restart_of_the_supervisor_under_load_fails_no_request(installed: Installed):
    with load(installed):
        for _ in range(3):
            before = pid(installed, "poolmgr.service")
            installed.run("systemctl restart poolmgr.service")
            assert pid(installed, "poolmgr.service") not in (before, 0)
            wait_for(lambda: joined(installed) == 2, 10, what="both workers are members again", step=STEP)
            goes_on(installed)
    assert "snapshot.restored" in installed.machine.journal("poolmgr.service")


def test_a_killed_supervisor_comes_back_and_no_request_fails(installed: Installed):
    with load(installed):
        for _ in range(3):
            before = pid(installed, "poolmgr.service")
            installed.run("systemctl kill --signal=SIGKILL poolmgr.service")
            renewed(installed, before)
            goes_on(installed)


def test_the_watchdog_ends_a_stopped_supervisor_and_nothing_fails(installed: Installed):
    before = pid(installed, "poolmgr.service")
    with load(installed, quick=8.0):
        installed.run(f"kill -STOP {before}")
        renewed(installed, before)
        goes_on(installed)
    journal = installed.out("journalctl --no-pager --output=cat --unit=poolmgr.service --unit=init.scope")
    assert "Watchdog timeout" in journal
    assert "most recent call first" in journal, "it says where it hung"


def test_a_supervisor_with_a_wrong_setting_says_so_and_comes_back_when_it_is_right(installed: Installed):
    wait_for(lambda: all_connected(installed), 20, what="both workers have a connection")
    installed.run("cp /etc/redis-poolmgr/environment /tmp/kept")
    installed.run("echo REDIS_CONNECTION_BUDGET=many >>/etc/redis-poolmgr/environment; systemctl reset-failed")
    try:
        assert installed.run("systemctl restart poolmgr.service", check=False).returncode != 0
        assert "REDIS_CONNECTION_BUDGET='many' is not allowed" in installed.machine.journal("poolmgr.service")
        # More often than systemd's own bounds, which would close the socket for good.
        wait_for(lambda: int(installed.machine.property("poolmgr.service", "NRestarts")) >= 10, 60, step=0.3)
        assert installed.machine.property("poolmgr.socket", "ActiveState") == "active"
        assert json.loads(installed.post('["PING"]')) == {"result": "PONG"}, "what is open stays open"
    finally:
        installed.run("cp /tmp/kept /etc/redis-poolmgr/environment")
    wait_for(lambda: installed.machine.property("poolmgr.service", "ActiveState") == "active", 10)
    wait_for(lambda: joined(installed) > 0, 10)


def test_a_process_that_may_start_no_supervisor_says_which_unit_does(installed: Installed):
    code = "from poolmgr import launch, settings; launch.connect(settings.load())"
    environ = "env -C / POOLMGR_SOCKET=/run/poolmgr/none POOLMGR_AUTOSTART=0"
    program = f"runuser -u poolmgr -- {environ} /opt/redis-poolmgr/bin/python -c '{code}'"
    said = installed.run(program, check=False).stderr
    assert "POOLMGR_AUTOSTART=0 forbids starting one; run: systemctl start poolmgr.socket" in said


NEXT = "99.0.0"


@pytest.fixture
def checkout(installed: Installed) -> str:
    """A checkout of a later version, where nobody but root may look; its path, as the machine sees it."""
    wheels.make_project(installed.machine.share / "next", NEXT)
    private = "/opt/private"
    installed.run(f"mkdir -m 700 {private} && cp -r checkout {private}")
    units = f"{private}/checkout/deploy/systemd"
    installed.run(f"sed -i 's/^Description=.*/& {NEXT}/' {units}/*.service {units}/*.socket")
    return f"{private}/checkout"


def versions(installed: Installed) -> set[str]:
    """Of the supervisor that runs, of what is installed, and of the unit."""
    found = {json.loads(installed.status())["version"], installed.out(f"{the_alias()} --version").split()[-1]}
    return found | {installed.machine.property("poolmgr.service", "Description").split()[-1]}


def test_an_upgrade_and_its_rollback_as_the_manual_has_them(installed: Installed, checkout: str):
    """All of it as typed, but for the download of packages."""
    steps = chapter("Upgrade")
    download = "pip install --upgrade '.[service]'"
    assert sum(download in step for step in steps) == 1
    without_network = f"{WITHOUT_NETWORK.replace('install', 'install --upgrade')} --find-links=/opt/share/next"
    typed = "\n".join(steps).replace(download, without_network)
    under_load, restart, after = typed.partition("\nsystemctl restart redis-worker.service")
    assert restart and "\n" not in after, "the last step is the only one during which requests are refused"
    prelude = f"shopt -s expand_aliases\nalias poolmgr='{the_alias()}'\ncd {checkout}\n"
    installed.run("mkdir /opt/redis-poolmgr.old && touch /opt/redis-poolmgr.old/left-by-an-earlier-upgrade")
    before = versions(installed)
    master, supervisor = pid(installed, "redis-worker.service"), pid(installed, "poolmgr.service")
    workers = set(installed.out(f"pgrep -P {master}").split())
    with load(installed):
        said = installed.run(prelude + under_load, timeout=100).stdout
        replaced(installed, master, workers)
        goes_on(installed)
    assert f"version {NEXT}, " in said
    assert f"budget {BUDGET} = " in said
    assert pid(installed, "poolmgr.service") != supervisor
    assert pid(installed, "redis-worker.service") == master
    installed.run(prelude + restart + after)
    assert pid(installed, "redis-worker.service") != master
    assert versions(installed) == {NEXT}
    assert json.loads(installed.post('["PING"]')) == {"result": "PONG"}

    installed.run(prelude + "\n".join(chapter("Rollback")))
    wait_for(lambda: versions(installed) == before, 10, what=f"everything is of {before} again")
    assert json.loads(installed.post('["PING"]')) == {"result": "PONG"}
    assert installed.run("ls -d /opt/redis-poolmgr.old", check=False).stdout == ""


def test_a_supervisor_that_idles_costs_next_to_nothing(installed: Installed):
    supervisor = pid(installed, "poolmgr.service")
    ticks = int(installed.out(f"awk '{{print $14+$15}}' /proc/{supervisor}/stat"))
    began = time.monotonic()
    installed.run("sleep 4")
    used = int(installed.out(f"awk '{{print $14+$15}}' /proc/{supervisor}/stat")) - ticks
    assert used / 100 / (time.monotonic() - began) < 0.02


def test_a_service_that_is_started_before_its_server_comes_up_with_it(installed: Installed):
    installed.run(f"systemctl stop redis-worker.service poolmgr.service {SERVER}.service; systemctl reset-failed")
    try:
        assert installed.run("systemctl start redis-worker.service", check=False).returncode != 0
        assert "Error: REDIS_URL is 'redis://127.0.0.1:6379/0'" in installed.machine.journal("redis-worker.service")
        # More often than the five times after which systemd would give up if they came too fast.
        wait_for(lambda: int(installed.machine.property("redis-worker.service", "NRestarts")) >= 6, 60, step=0.3)
    finally:
        installed.start_server()
    wait_for(lambda: installed.machine.property("redis-worker.service", "ActiveState") == "active", 20)
    assert json.loads(installed.post('["PING"]')) == {"result": "PONG"}


def test_stop_leaves_nothing(installed: Installed):
    installed.post('["PING"]')
    installed.run("systemctl stop redis-worker.service poolmgr.socket poolmgr.service")
    assert installed.run("pgrep -u poolmgr", check=False).stdout == ""
    assert installed.run("ls -d /run/poolmgr", check=False).stdout == ""
    assert installed.out("find /tmp /var/tmp /dev/shm -user poolmgr") == ""
    assert len(installed.redis("CLIENT", "LIST").splitlines()) == 1, "the observer alone is left"
    for unit in ("poolmgr.socket", *SERVICES):
        assert installed.machine.property(unit, "Result") == "success"


def test_uninstalling_leaves_nothing(installed: Installed):
    installed.run(commands("systemctl disable"))
    assert installed.out("ls /etc/systemd/system | grep -E 'poolmgr|redis-worker' || true") == ""
    left = installed.out("ls -d /opt/redis-poolmgr /etc/redis-poolmgr /etc/*/redis-poolmgr.conf 2>/dev/null || true")
    assert left == ""
    assert installed.run("id poolmgr", check=False).returncode != 0
    assert installed.machine.property("redis-worker.service", "LoadState") == "not-found"

"""``python -m tests.matrix``: see :mod:`tests.matrix`. Status 1: something failed; 2: nothing could be run."""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import shlex
import sys
from pathlib import Path

from tests.matrix import packages, report, results, roots
from tests.matrix.machine import Machine, git
from tests.matrix.report import FOLDERS
from tests.matrix.results import Figures, Found
from tests.matrix.roots import CACHE, UnavailableError
from tests.matrix.slices import Runner
from tests.matrix.systems import SYSTEMS, System

VERSION = """\
import sys, sysconfig
threaded = ["free-threaded"] if sysconfig.get_config_var("Py_GIL_DISABLED") else []
print("%d.%d.%d" % sys.version_info[:3], *threaded)
"""
"""What tells a Python's version and build."""

PARTS = ("run", "test", "servers")


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="make matrix",
        description=__doc__,
        epilog="What is not listed here goes to pytest; then nothing is recorded.",
    )
    parser.add_argument("--system", action="append", choices=[*SYSTEMS], help="only this one; may be repeated")
    parser.add_argument(
        "--parts",
        default=",".join(PARTS),
        help=f"of {', '.join(PARTS)}, or folders of the tests ({', '.join(FOLDERS)}); by default %(default)s",
    )
    parser.add_argument("--server", action="append", help="with --parts servers: only this program; may be repeated")
    parser.add_argument("--python", type=Path, help="the prefix of another Python, built for that system")
    parser.add_argument(
        "--keep", action="store_true", help="keep what the run installs, and begin with it the next time"
    )
    parser.add_argument("--again", action="store_true", help="make the roots again")
    parser.add_argument("--json", action="store_true", help="print the figures of this run as JSON")
    return parser.parse_known_args(arguments)


class Run:
    """One system."""

    def __init__(self, system: System, options: argparse.Namespace, arguments: list[str]) -> None:
        self.system, self._options, self._arguments = system, options, arguments
        self.failed: list[str] = []
        self.log = CACHE / "logs" / f"{system.name}.log"
        self._date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
        self._commit = git("rev-parse", "--short", "HEAD").strip() + "+" * bool(git("status", "--porcelain").strip())

    def say(self, text: str) -> None:
        print(f"{self.system.name}: {text}", file=sys.stderr, flush=True)

    def go(self) -> tuple[str, Found]:
        """Run what is wanted; the system's name in the results, and the figures.

        Raises:
            UnavailableError: it cannot be run here.
        """
        root = roots.root_of(self.system, self.say, again=self._options.again)
        prefix = self._options.python
        if prefix and not (prefix / "bin" / "python3").exists():
            raise UnavailableError(f"{prefix} is no prefix of a Python: it has no bin/python3")
        python = f"{prefix}/bin/python3" if prefix else "python3"
        self.log.unlink(missing_ok=True)
        layer = f"{self.system.name}{'-' + prefix.name if prefix else ''}" if self._options.keep else ""
        machine = Machine(root, layer=layer, prefix=prefix)
        try:
            machine.put_clone()
            found = self._facts(machine, python)
            tag = f"{self.system.name}-{found.python.replace(' ', '-')}"
            packages.fetch(machine, tag, python, self.say)
            self._parts(Runner(machine, python, self.log, self._arguments), found)
        finally:
            machine.remove()
        name = f"{self.system.name} with Python {found.python}" if prefix else self.system.name
        return name, found

    def _facts(self, machine: Machine, python: str) -> Found:
        release = machine.out("cat /etc/debian_version")
        found = Found(
            title=self.system.title,
            release=release,
            python=machine.out(f"{python} -c {shlex.quote(VERSION)}"),
            kernel=platform.release(),
            systemd=machine.out("systemctl --version | sed -n '1s/systemd \\([0-9]*\\).*/\\1/p'"),
        )
        if not release or not found.python:
            raise UnavailableError(f"nothing runs in its root: {self.log} says why")
        for server in self.system.servers:
            found.servers[server] = machine.out(f"{server} --version | sed 's/.* v=\\([0-9.]*\\).*/\\1/'")
        return found

    def _parts(self, runner: Runner, found: Found) -> None:
        wanted = self._options.parts.split(",")
        folders = [part for part in wanted if part in FOLDERS]
        if unknown := set(wanted) - {*PARTS, *FOLDERS}:
            raise UnavailableError(f"no part is called {', '.join(sorted(unknown))}")
        if "run" in wanted:
            self.say("make run ...")
            self._note(found, "run", runner.minute(), [])
        if "test" in wanted or folders:
            self.say(f"make test{' of ' + ', '.join(folders) if folders else ''} ...")
            paths = [] if "test" in wanted else [f"tests/{folder}" for folder in folders]
            figures, failed = runner.tests(*paths)
            for folder, each in figures.items():
                self._note(found, folder, each, [test for test in failed if test.startswith(f"tests/{folder}/")])
        if "servers" in wanted:
            if runner.install():
                raise UnavailableError(f"what the tests need cannot be installed: {self.log} says why")
            for server, version in found.servers.items():
                if not self._options.server or server in self._options.server:
                    self.say(f"{server} {version} ...")
                    each, failed = runner.served(server)
                    self._note(found, f"server {server} {version}", each, failed)

    def _note(self, found: Found, part: str, figures: Figures, failed: list[str]) -> None:
        figures.date, figures.commit = self._date, self._commit
        found.parts[part] = figures
        self.say(f"{part}: {figures.text} in {figures.seconds:.0f} s")
        for test in failed:
            self.say(f"  failed: {test}")
        if not figures.well:
            self.failed.append(part)
            self.say(f"  see {self.log}")


def record(found: results.Results) -> None:
    """Put the figures into the table; what this run did not run stays as it was."""
    known = results.load()
    for name, each in found.items():
        before = known.get(name)
        if before is not None:
            servers = {part for part in before.parts if part.startswith(report.SERVER)}
            gone = {part for part in servers if part.split()[1] in {p.split()[1] for p in each.parts if " " in p}}
            each.parts = {**{part: figures for part, figures in before.parts.items() if part not in gone}, **each.parts}
        known[name] = each
    results.save(known)
    report.write(known)


def main(arguments: list[str]) -> int:
    options, rest = parse(arguments)
    try:
        roots.check()
    except UnavailableError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    found: results.Results = {}
    failed, missing = False, False
    for name in options.system or SYSTEMS:
        run = Run(SYSTEMS[name], options, rest)
        try:
            key, each = run.go()
        except UnavailableError as error:
            run.say(f"Error: {error}")
            missing = True
            continue
        found[key] = each
        failed = failed or bool(run.failed)
    if found and not rest:
        record(found)
        print(f"written: {os.path.relpath(report.FILE)}", file=sys.stderr)
    if options.json:
        print(results.encode(found).decode(), end="")
    return 1 if failed else 2 if missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The supervisor is started wherever its starter has this package from, and says why if it cannot be.

Each script runs in an interpreter that finds none of our packages by itself, as on a system whose environment is
activated from within (``addsitedir``, ``activate_this``), in an embedding program, from an archive, from a PEX. Its
supervisor logs to its standard error, as a service's does: then it needs structlog, which its starter does not.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tests.helpers import ROOT, RedisServer
from tests.stopwatch import Stopwatch

PACKAGES = str(Path(msgspec.__file__).parent.parent)

USE = """
import poolmgr, poolmgr.spawn, redis, os, sys, time
poolmgr.spawn.show_output()
before = time.monotonic()
try:
    print(redis.Redis(connection_pool=poolmgr.ConnectionPool.from_url(os.environ["URL"], timeout=50)).ping())
except redis.RedisError as error:
    print(type(error).__name__, error)
print(round(time.monotonic() - before, 2))
"""


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter with nothing installed."""
    directory = tmp_path_factory.mktemp("bare") / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory], check=True)
    return str(directory / "bin" / "python")


@pytest.fixture
def run(bare: str, short_dir: Path, redis_server: Callable[..., RedisServer]) -> Callable[..., list[str]]:
    url = redis_server().url

    def run(code: str, *flags: str, python: str = bare, cwd: Path = short_dir, **environ: str) -> list[str]:
        script = short_dir / "script.py"
        script.write_text(code + USE)
        watch = Stopwatch()
        done = subprocess.run(
            [python, *flags, script],
            env={**os.environ, "URL": url, "PYTHONDONTWRITEBYTECODE": "1", "POOLMGR_LINGER": "0", **environ},
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        *said, took = done.stdout.splitlines()
        return [*said, str(min(float(took), watch.fair()))]

    return run


def works(said: list[str]) -> None:
    assert said[0] == "True", said


def fails_at_once(said: list[str], pattern: str) -> None:
    assert re.search(pattern, said[0]), said
    assert float(said[-1]) < 4, "the pool's timeout is 50 s, and there is nothing to wait for"


def test_a_directory_added_by_the_script(run):
    works(run(f"import site; site.addsitedir({PACKAGES!r})"))


def test_an_environment_activated_from_within(run):
    """What virtualenv's activate_this.py does."""
    works(
        run(
            f"import site, sys; old = len(sys.path); site.addsitedir({PACKAGES!r})\n"
            f"sys.path[:] = sys.path[old:] + sys.path[:old]; sys.prefix = {sys.prefix!r}"
        )
    )


def test_a_program_that_embeds_python_with_a_home_of_its_own(run):
    """As uWSGI's -H, where sys.executable is uWSGI."""
    works(run(f"import sys; sys.executable = '/usr/bin/uwsgi'; sys.path += [{PACKAGES!r}, {str(ROOT)!r}]"))


def test_a_directory_like_an_unpacked_pex(run, short_dir):
    """Every distribution in a directory of its own, and none of them called site-packages."""
    for name in ("redis", "msgspec", "structlog", "psutil", "poolmgr"):
        (short_dir / name / ".deps").mkdir(parents=True)
        home = ROOT if name == "poolmgr" else Path(PACKAGES)
        (short_dir / name / ".deps" / name).symlink_to(home / name)
    rest = short_dir / "rest"
    rest.mkdir()
    for entry in Path(PACKAGES).iterdir():
        if entry.name not in ("redis", "msgspec", "structlog", "psutil", "poolmgr") and entry.suffix != ".pth":
            (rest / entry.name).symlink_to(entry)
    works(
        run(
            f"import sys; sys.path += ['{rest}'] + "
            f"['{short_dir}/' + n + '/.deps' for n in ('redis', 'msgspec', 'structlog', 'psutil', 'poolmgr')]"
        )
    )


def test_an_archive(run, short_dir):
    archive = short_dir / "app.zip"
    with zipfile.ZipFile(archive, "w") as into:
        for file in (ROOT / "poolmgr").rglob("*.py"):
            into.write(file, file.relative_to(ROOT))
    works(run(f"import sys; sys.path += [{str(archive)!r}, {PACKAGES!r}]"))


def test_a_directory_named_relatively(run, short_dir):
    (short_dir / "here").symlink_to(PACKAGES)
    works(run(f"import sys; sys.path += ['here', {str(ROOT)!r}]"))


def test_a_module_of_the_script_that_is_called_like_one_of_the_standard_library_stays_the_scripts(run, short_dir):
    (short_dir / "own").mkdir()
    (short_dir / "own" / "asyncio.py").write_text("raise ImportError('this is not the one')")
    works(
        run(
            f"import sys; sys.path += [{PACKAGES!r}, {str(ROOT)!r}]; import poolmgr.pool.sync.pool\n"
            f"sys.path.insert(0, '{short_dir}/own')"
        )
    )


def test_packages_that_no_path_leads_to_are_named_at_once(run):
    """As in a frozen program: an importer of its own."""
    said = run(
        "import sys\n"
        "from importlib.machinery import PathFinder\n"
        "class Finder:\n"
        "    @staticmethod\n"
        "    def find_spec(name, path=None, target=None):\n"
        f"        return PathFinder.find_spec(name, path or [{PACKAGES!r}])\n"
        f"sys.meta_path.append(Finder); sys.path.append({str(ROOT)!r})"
    )
    fails_at_once(said, r"supervisor.*: ModuleNotFoundError: No module named 'msgspec'")


def test_an_import_that_fails_when_it_listens_already_is_told_at_once(run, short_dir):
    """What the supervisor needs and its starter does not."""
    (short_dir / "broken").mkdir()
    (short_dir / "broken" / "structlog.py").write_text("raise ImportError('built for another machine')")
    said = run(
        f"import sys; sys.path += [{PACKAGES!r}, {str(ROOT)!r}]",
        PYTHONPATH=str(short_dir / "broken"),
    )
    fails_at_once(said, r"supervisor.*: ImportError: built for another machine")


def broken(directory: Path) -> str:
    """A directory in which the supervisor would find a module that cannot be loaded."""
    directory.mkdir(parents=True)
    (directory / "structlog.py").write_text("raise ImportError('this is not the one')")
    return str(directory)


@pytest.mark.parametrize("flag", ["-E", "-I"])
def test_what_its_starter_was_told_to_ignore_it_ignores_too(run, short_dir, flag):
    """As in a script of the system's whose first line is ``python -I``, started from another one's environment."""
    added = f"import sys; sys.path += [{PACKAGES!r}, {str(ROOT)!r}]"
    path = broken(short_dir / "own")
    works(run(added, flag, PYTHONPATH=path))
    works(run(added, flag, PYTHONHOME="/nowhere"))
    fails_at_once(run(added, PYTHONPATH=path), "ImportError: this is not the one")


@pytest.mark.parametrize("flag", ["-s", "-I"])
def test_packages_of_the_user_that_its_starter_does_not_see_it_does_not_see_either(run, short_dir, flag):
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    broken(short_dir / ".local" / "lib" / version / "site-packages")
    python = sys._base_executable  # type: ignore[attr-defined]  # an environment has no user's packages
    added = f"import sys; sys.path += [{PACKAGES!r}, {str(ROOT)!r}]"
    works(run(added, flag, python=python, HOME=str(short_dir)))
    fails_at_once(run(added, python=python, HOME=str(short_dir)), "ImportError: this is not the one")


def test_a_python_that_is_not_there_is_told_at_once(run):
    said = run(
        f"import sys; sys.executable = ''; sys.exec_prefix = '/nowhere'; sys.path += [{PACKAGES!r}, {str(ROOT)!r}]"
    )
    fails_at_once(said, r"/nowhere/bin/python3: No such file or directory")


def test_a_python_that_cannot_start_is_told_at_once(run, short_dir):
    """Another one's home: it does not find its standard library."""
    fails_at_once(
        run(f"import os, sys; sys.path += [{PACKAGES!r}, {str(ROOT)!r}]; os.environ['PYTHONHOME'] = '/nowhere'"),
        r"supervisor ended as soon as it was started: Fatal Python error: ",
    )

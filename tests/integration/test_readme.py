"""What the README shows, done as it is printed."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess

import pytest

from poolmgr import settings
from poolmgr.pool.default import options_of
from poolmgr.pool.options import PARSERS
from poolmgr.pool.sync.pool import ConnectionPool
from poolmgr.settings.table import VARIABLES
from tests.helpers import ROOT, free_port, python

README = (ROOT / "README.md").read_text()


def blocks(language: str, containing: str) -> str:
    (found,) = [code for code in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if containing in code]
    return str(found)


@pytest.fixture
def service(make):
    return make().start()


def test_the_first_requests_answer_as_shown(service):
    commands = blocks("sh", "curl").replace("localhost:8000", f"127.0.0.1:{service.port}")
    commands = re.sub(r"^TOKEN=.*$", f"TOKEN={service.token}", commands, flags=re.MULTILINE)
    # Each answer begins a line of its own here; curl ends none.
    script = commands.replace("\n", "; echo\n").replace(f"TOKEN={service.token}; echo", f"TOKEN={service.token}")
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == blocks("json", '"result":"hello"')


def test_the_flask_application_works(redis_server, monkeypatch):
    monkeypatch.setenv("REDIS_URL", redis_server(maxclients=40).url)
    code = blocks("python", "Flask") + "\nimport json\nprint(json.dumps(app.test_client().get('/').json))"
    assert json.loads(python(code).stdout) == {"hits": 1}


def test_the_starlette_application_works(redis_server, monkeypatch):
    monkeypatch.setenv("REDIS_URL", redis_server(maxclients=40).url)
    code = (
        blocks("python", "Starlette")
        + """
import asyncio

async def ask():
    async def receive():
        return {"type": "http.request"}

    async def send(message):
        print(message.get("body", b"").decode(), end="")

    async with app.router.lifespan_context(app):
        await app({"type": "http", "method": "GET", "path": "/", "headers": []}, receive, send)

asyncio.run(ask())"""
    )
    assert json.loads(python(code).stdout) == {"hits": 1}


def test_the_django_settings_work(redis_server):
    url = redis_server(maxclients=40).url
    settings = blocks("python", "CACHES").replace("redis://cache:6379/0", url)
    code = f"""{settings}
from django.conf import settings
settings.configure(CACHES=CACHES)
from django.core.cache import cache
cache.set("k", [1])
import poolmgr
pool = cache._cache.get_client(None).connection_pool
print(cache.get("k"), type(pool) is poolmgr.ConnectionPool)"""
    assert python(code).stdout == "[1] True\n"


def test_a_pool_of_ones_own_works(redis_server, isolated):
    server = redis_server(maxclients=40, port=free_port())
    code = "import poolmgr, redis\n" + blocks("python", "poolmgr.ConnectionPool(").replace(
        'host="cache", port=6379', f'host="127.0.0.1", port={server.port}'
    )
    assert python(code + "\nprint(client.ping(), client.connection_pool.max_connections)").stdout == "True 10\n"


def features() -> list[list[list[str]]]:
    """The rows of the tables of features: the arguments, the calls, and which client runs where."""
    part = README.partition("<!-- features: begin -->")[2].partition("<!-- features: end -->")[0]
    tables = [table.splitlines() for table in re.findall(r"(?:^\|.*\n)+", part, re.MULTILINE)]
    return [[[cell.strip() for cell in row.strip("|").split(" | ")] for row in table[2:]] for table in tables]


def test_every_option_of_the_pool_is_a_feature_in_all_ways_in_which_it_can_be_set():
    arguments, *_ = features()
    signature = inspect.signature(ConnectionPool.__init__).parameters
    ours = {name for name, given in signature.items() if given.kind is given.KEYWORD_ONLY} - {"member"}
    assert {row[0] for row in arguments} == {f"`{name}`" for name in ours | {"max_connections"}}
    by_environment = options_of(settings.load({}))
    for name, in_url, variable, *_ in arguments:
        name = name.strip("`")
        if name == "hooks":  # functions cannot be written down
            assert (in_url, variable) == ("no", "no")
            continue
        assert in_url.startswith("yes") and name in PARSERS, name
        assert name in by_environment, name
        assert variable == f"`{next(v.name for v in VARIABLES if v.attribute == f'pool_{name}')}`", name


def test_every_feature_links_to_its_test():
    links = [match for rows in features() for row in rows for match in re.findall(r"\[([^]]+)\]\(([^)]+)\)", row[-1])]
    assert len(links) == sum(len(rows) for rows in features()), "one for each"
    for words, path in links:
        assert f"def test_{words.replace(' ', '_')}(" in (ROOT / path).read_text(), words


def test_every_file_it_links_to_is_there():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not os.path.exists(ROOT / link)] == []

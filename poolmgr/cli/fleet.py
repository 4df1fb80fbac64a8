"""``poolmgr fleet``: which host holds what. It reads the table at the server, and needs no supervisor."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.markup import escape
from rich.text import Text

from poolmgr import settings, tags
from poolmgr.cli.output import console, print_json, table
from poolmgr.errors import PoolmgrError, SettingsError, SupervisorError
from poolmgr.fleet import records, script, source
from poolmgr.settings import parsers
from poolmgr.settings.table import BY_NAME

if TYPE_CHECKING:
    import redis

app = typer.Typer(help="Who holds what of the fleet's budget, over all hosts.", invoke_without_command=True)

Url = Annotated[
    str | None, typer.Option("--url", metavar="URL", help="Of the server. Default: REDIS_URL.", show_default=False)
]
Name = Annotated[
    str | None, typer.Option("--fleet", metavar="FLEET", help="Its name. Default: REDIS_FLEET.", show_default=False)
]


@app.callback()
def show(
    context: typer.Context,
    url: Url = None,
    fleet: Name = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Who holds what of the fleet's budget, over all hosts."""
    context.obj = url, fleet
    if context.invoked_subcommand is not None:
        return
    with _table(url, fleet) as found:
        known = found.read()
    if as_json:
        print_json(msgspec.json.encode(known))
        return
    _print(known, found.name)


@app.command("budget")
def budget(
    context: typer.Context,
    number: Annotated[str, typer.Argument(metavar="N|reset", help="reset: the least that the hosts state.")],
) -> None:
    """Set the fleet's budget live, over what the hosts state. Connections in use are not cut."""
    word = "-" if number.strip() == "reset" else number.strip()
    try:
        word = word if word == "-" else str(parsers.whole(1)(word))
    except ValueError:
        raise SettingsError(
            f"N {parsers.conceal(number)!r} is not a budget; give a whole number from 1 to 1000000, or reset"
        ) from None
    with _table(*context.obj) as found:
        found.ask("budget", found.run_id, word)
    said = "what its hosts state" if word == "-" else word
    console().print(f"the budget of fleet {found.name} is {said}, as soon as a host renews", markup=False)


@app.command("fence")
def fence(context: typer.Context, lease: Annotated[str, typer.Argument(help="As poolmgr fleet shows it.")]) -> None:
    """Have a lease that has ended proven gone now, whether or not its connections are wanted."""
    if not script.NAME.match(lease):
        raise SettingsError(f"LEASE {parsers.conceal(lease)!r} is not a lease's name; see: poolmgr fleet")
    with _table(*context.obj) as found:
        reply = found.ask("fence", found.run_id, lease)
    if reply == [b"ok", 1]:
        console().print(f"{lease} is marked: its connections are killed, and its grant is freed", markup=False)
        return
    if isinstance(reply, list) and reply[:2] == [b"ok", -1]:
        raise SupervisorError(
            f"{lease} has not ended: its host may still use it. Stop that host, and wait for the end of its lease"
        )
    raise SupervisorError(f"no lease of fleet {found.name} is named {lease}, or it is marked already: poolmgr fleet")


@app.command("forget")
def forget(context: typer.Context) -> None:
    """Remove the fleet's table, if none of its hosts is connected any more."""
    with _table(*context.obj) as found:
        shown = sum(
            1
            for client in found.client.client_list()
            if (tag := tags.find(client.get("name", ""))) is not None and tag.lease.startswith(script.mark(found.name))
        )
        if shown:
            raise SupervisorError(
                f"{shown} connections of fleet {found.name} are open at this server: stop its hosts first"
            )
        there = found.client.delete(found.key)
    console().print(
        f"the table of fleet {found.name} is removed" if there else f"this server has no table of fleet {found.name}",
        markup=False,
    )


class _Table:
    """The table at one server, over a connection of this command's own."""

    def __init__(self, client: redis.Redis, name: str) -> None:
        self.client = client
        self.name = name
        self.key = script.key(name)
        info: dict[str, Any] = client.info("server")
        self.run_id = str(info["run_id"])
        self._major = int(str(info["redis_version"]).partition(".")[0])

    def ask(self, *arguments: str) -> Any:
        reply = self.client.eval(source.text(self._major), 1, self.key, *arguments)
        if reply == [b"none"]:
            raise self._missing()
        return reply

    def _missing(self) -> SupervisorError:
        return SupervisorError(f"this server has no table of fleet {self.name}: none of its hosts has come yet")

    def read(self) -> records.Fleet:
        fields: dict[bytes, bytes] = self.client.hgetall(self.key)  # type: ignore[assignment]
        seconds, micros = self.client.time()
        try:
            found = records.read(
                self.name,
                {name.decode("utf-8", "replace"): text.decode("utf-8", "replace") for name, text in fields.items()},
                seconds + micros / 1e6,
            )
        except records.UnreadableError as error:
            raise SupervisorError(f"{error}: another version of redis-poolmgr wrote it") from None
        if found is None or found.run_id != self.run_id:
            raise self._missing()
        return found


def _named(text: str) -> str:
    try:
        return parsers.fleet_name(text)
    except ValueError:
        shown, allowed = parsers.conceal(text), BY_NAME["REDIS_FLEET"].allowed
        shown = shown if len(shown) <= 120 else shown[:117] + "..."
        raise SettingsError(f"--fleet {shown!r} cannot be the name of a fleet; give {allowed}") from None


@contextlib.contextmanager
def _table(url: str | None, name: str | None) -> Iterator[_Table]:
    import redis

    loaded = settings.load()
    url, name = url or loaded.redis_url, loaded.fleet if not name else _named(name)
    if not name:
        raise SettingsError("no fleet is named: set REDIS_FLEET, or give --fleet")
    if not url:
        raise SettingsError("no server is named: set REDIS_URL, or give --url")
    client: redis.Redis | None = None
    try:
        client = redis.Redis.from_url(url, socket_connect_timeout=5, socket_timeout=5, single_connection_client=True)
        yield _Table(client, name)
    except (redis.RedisError, ValueError, OSError) as error:
        if isinstance(error, PoolmgrError):
            raise
        raise SupervisorError(f"{parsers.mask_url(url)} cannot be asked: {error}") from None
    finally:
        if client is not None:
            client.close()


def _print(fleet: records.Fleet, name: str) -> None:
    out = console()
    word = f" (set by poolmgr fleet budget {fleet.operator})" if fleet.operator is not None else ""
    out.print(
        Text.from_markup(
            f"[bold]fleet {escape(name)}[/bold]  {fleet.granted} of budget {fleet.budget}{word} granted to "
            f"{_count(len(fleet.hosts), 'host')}, slack {fleet.slack}"
            + ("" if fleet.others is None else f", {_count(fleet.others, 'other client')}")
        )
    )
    if fleet.learning:
        out.print("the table is new: nothing more is granted before all that is connected was counted")
    stated = {host.budget for host in fleet.hosts if host.marked_for is None and host.ends_in >= 0}
    if fleet.operator is None and len(stated) > 1:
        out.print(f"hosts state different budgets, {min(stated)} to {max(stated)}: the least holds")
    rows = table("host", "lease", "grant", "demand", "state", numbers=("grant", "demand"))
    for host in fleet.hosts:
        rows.add_row(escape(host.host), host.name, str(host.grant), str(host.demand), escape(_state(host)))
    out.print(rows)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _state(host: records.Host) -> str:
    if host.marked_for is not None:
        return f"marked for {host.marked_for:.0f} s: it is proven gone before its grant is freed"
    if host.ends_in < 0:
        return f"ended {-host.ends_in:.0f} s ago: not heard of since"
    return f"renewed, ends in {host.ends_in:.0f} s" + ("" if host.able else "; may not list clients")

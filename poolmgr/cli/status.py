"""``poolmgr status``: who holds what, now."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Annotated

import msgspec
import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.padding import Padding
from rich.text import Text

from poolmgr import settings, status, wire
from poolmgr.cli.ask import ask
from poolmgr.cli.output import NARROW, WIDE, console, print_json, table
from poolmgr.errors import SupervisorError

COSTS = ("cpu", "memory", "files", "threads")
"""Columns that only a wide terminal has room for: processor time, resident memory, open descriptors, threads."""


def command(
    as_json: Annotated[bool, typer.Option("--json", help="Print the supervisor's whole answer as JSON.")] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Repeat every second until Ctrl-C.")] = False,
) -> None:
    """Who holds what: per server the budget and how it came about, per process its share."""
    values = settings.load()
    if as_json:
        print_json(_ask(values))
    elif watch:
        _watch(values)
    else:
        out = console()
        out.print(render(_read(_ask(values)), out.width))


def _ask(values: settings.Settings) -> str:
    answer = ask(values, wire.Query("status"))
    if not answer.ok:
        raise SupervisorError(answer.body)
    return answer.body


def _read(body: str) -> status.Status:
    try:
        return status.load_status(body)
    except msgspec.DecodeError as error:
        raise SupervisorError(f"the supervisor's answer cannot be read ({error}): is it of another version?") from None


def _watch(values: settings.Settings) -> None:
    out = console()
    try:
        with Live(console=out, auto_refresh=False, screen=out.is_terminal) as live:
            while True:
                try:
                    shown: RenderableType = render(_read(_ask(values)), out.width)
                except SupervisorError as error:  # it may come back
                    shown = Text(f"Error: {error}", style="red")
                live.update(shown, refresh=True)
                time.sleep(1)
    except KeyboardInterrupt:
        pass


def render(found: status.Status, width: int = WIDE) -> RenderableType:
    """A status as it is shown to people, in so many columns."""
    head = f"supervisor {found.pid}, version {found.version or '?'}, up {_duration(found.uptime)}, {found.socket}"
    parts: list[RenderableType] = [Text(head)]
    if not found.servers:
        parts.append(Text("\nno process has asked for a connection yet"))
    for server in found.servers:
        parts += _server(server, width)
    for difference in found.differences:
        parts.append(Text(f"\naudit: {_difference(difference)}", style="yellow"))
    for note in found.notes:
        parts.append(Text(f"\nnote: {note}", style="yellow"))
    return Group(*parts)


def _server(server: status.ServerStatus, width: int) -> list[RenderableType]:
    budget = "not known yet" if server.budget is None else str(server.budget)
    parts: list[RenderableType] = [Text.from_markup(f"\n[bold]{escape(server.id)}[/bold]")]
    others = [alias for alias in server.aliases if alias != server.id]
    if others:
        parts.append(Text(f"  also       {', '.join(others)}"))
    parts.append(Text(f"  budget     {server.derivation or budget}"))
    parts.append(
        Text(
            f"  permits    {server.charged} charged, {server.own} the supervisor's own, "
            f"{server.quarantine} in quarantine, {server.free} free"
            + (f", {server.unproven} freed without proof" if server.unproven else "")
        )
    )
    if not server.health.up:
        parts.append(Text(f"  DOWN       {_since(server.health.since)}: {server.health.error}", style="bold red"))
    if server.health.unseen and (server.health.up or server.health.unseen != server.health.error):
        since = f"{_since(server.health.unseen_since)}: " if server.health.unseen_since else ""
        text = f"  unseen     {since}{server.health.unseen}; processes go on, waits replace proofs"
        parts.append(Text(text, style="yellow"))
    if server.members:
        numbers = ("pid", "limit", "charge", "open", "in use", "waiting")
        remarks = [_remark(member) for member in server.members]
        # Without anything in it, rich counts a column as wider than it draws it, and folds another one. In a
        # narrow terminal a remark stands below its process's name.
        last = [""] if any(remarks) and width >= NARROW else []
        costs = COSTS if width >= NARROW and any(member.threads for member in server.members) else ()
        rows = table("pid", "process", *numbers[1:], *costs, *last, numbers=(*numbers, *costs))
        for member, remark in zip(server.members, remarks, strict=True):
            named = member.title if last or not remark else f"{member.title}\n({remark})"
            rows.add_row(
                str(member.pid),
                escape(named),
                *(str(n) for n in (member.limit, member.charge, member.open, member.in_use, member.waiting)),
                *(_costs(member) if costs else ()),
                *(escape(remark) for _ in last),
                style="bold yellow" if member.waiting else None,
            )
        parts.append(Padding(rows, (0, 0, 0, 2), expand=False))
    return parts


def _costs(member: status.MemberStatus) -> tuple[str, ...]:
    """What the process costs the host, in the columns of :data:`COSTS`; empty where it is not known yet."""
    processor = "" if member.processor is None else _duration(member.processor)
    memory = "" if member.memory is None else f"{member.memory / 2**20:.0f} MiB"
    return (processor, memory, *("" if n is None else str(n) for n in (member.descriptors, member.threads)))


def _since(epoch: float) -> str:
    if not epoch:
        return "since ?"
    at = datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return f"since {at}, for {_duration(max(0.0, time.time() - epoch))}"


def _remark(member: status.MemberStatus) -> str:
    remarks = [] if member.state == "live" else [member.state]
    if not member.acked:
        remarks.append("recalled")
    if member.pinned:
        remarks.append(f"{member.pinned} pinned")
    if member.silent_for is not None and member.silent_for >= 5:
        remarks.append(f"last heard {_duration(member.silent_for)} ago")
    return ", ".join(remarks)


def _difference(found: status.Difference) -> str:
    if found.text:
        return found.text
    seen = [
        f"{name} {'cannot tell' if number is None else number}"
        for name, number in (("ledger", found.ledger), ("kernel", found.kernel), ("server", found.server_sees))
    ]
    return f"{found.server}: process {found.pid} {found.title}: {', '.join(seen)}"


def _duration(seconds: float) -> str:
    whole = int(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"

"""A service has one identity: its workers' user, even if root started the master and the workers have another user.

gunicorn's ``-u`` and ``-g`` change the user of each worker after the fork; its master stays root. The supervisor, the
embedded server and the token's file, which the master starts or makes, must belong to the workers, or there would be
two of each. So the master does these things as that user, and is root again afterwards.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

from poolmgr.errors import SettingsError


@contextlib.contextmanager
def as_workers(cfg: Any) -> Iterator[None]:
    """Become the workers' user, in their group, in a master that is root; elsewhere nothing changes. Only this
    process's saved user stays root, so that the master can go back; the programs that it runs meanwhile cannot.

    Args:
        cfg: gunicorn's configuration.

    Raises:
        SettingsError: the system does not allow it.
    """
    uid, gid = cfg.uid, cfg.gid
    if os.getuid() != 0 or os.geteuid() != 0 or not uid:
        yield
        return
    groups, group = os.getgroups(), os.getgid()
    try:
        try:
            if gid:
                os.setgroups(_groups(uid, gid) if cfg.initgroups else [gid])
                os.setresgid(gid, gid, group)
            os.setresuid(uid, uid, 0)
        except OSError as error:
            raise SettingsError(
                f"the workers' user ({uid}) cannot be used here ({error.strerror}): start gunicorn as that user"
            ) from None
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(group, group, group)
        os.setgroups(groups)


def _groups(uid: int, gid: int) -> list[int]:
    import pwd

    try:
        return os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
    except KeyError:
        return [gid]


def hook(ours: Callable[..., None]) -> Callable[..., None]:
    """A hook of ours, whose first argument is gunicorn's arbiter, that is run as the workers' user."""

    @functools.wraps(ours)
    def run(server: Any, *rest: Any) -> None:
        with as_workers(server.cfg):
            ours(server, *rest)

    return run

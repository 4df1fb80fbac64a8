"""``python -m poolmgr.cli`` is the command ``poolmgr``."""

from poolmgr.cli import main

main()

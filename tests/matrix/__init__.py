"""``make matrix``: README's two commands and the whole suite, on other systems than this one.

Each system is a root that debootstrap makes from Debian's archive, kept in a cache. A run sees that root with a layer
of its own on top, a fresh clone, and packages that were fetched before; of this machine it sees the kernel, and has no
network but its loopback. What ran, and with which outcome, is kept in ``docs/platforms/results.json``;
:mod:`tests.matrix.report` makes ``docs/platforms.md`` of it.

``systems`` says which systems there are; ``roots`` makes them; ``packages`` fetches what pip installs in them;
``machine`` runs a command in one; ``slices`` says what runs; ``outcomes`` is the plugin of pytest that counts.
"""

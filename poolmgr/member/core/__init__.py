"""Pure: what one process may open, gives back and reports. No sockets, clock or threads.

- ``process``: all of it: the member's side of the permit protocol
- ``directory``: which endpoint leads to which server
- ``account``: its limit at one server; ``dispatcher``: which of its pools there gets the next permit
- ``health``: whether that server is down
- ``demand``: how busy a pool is; ``division``: open files over servers
- ``reporting``: what the supervisor hears
- ``bounds``, ``explanation``: how long a caller waits, and the words if it waited in vain
"""

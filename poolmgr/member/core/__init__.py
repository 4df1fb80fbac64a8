"""Pure: what one process may open, gives back and reports. No sockets, clock or threads."""

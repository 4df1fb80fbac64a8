"""Pure: what one process may open, what it gives back and what it says. No sockets, no clock, no threads."""

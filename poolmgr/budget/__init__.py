"""Pure rules: how many connections each process may hold. No sockets, clock or threads; time is an argument."""

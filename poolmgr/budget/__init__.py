"""Pure rules: who may hold how many connections. No sockets, no clock, no threads; time is an argument."""

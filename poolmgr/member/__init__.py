"""A process's part of the budget: its permits, and the one thread that talks to the supervisor."""

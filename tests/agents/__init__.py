"""APM agents, each in a process of its own: what they record of a client on redis-py's pool, and of one on ours."""

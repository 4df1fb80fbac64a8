"""Who is connected to the supervisor, and which processes are registered."""

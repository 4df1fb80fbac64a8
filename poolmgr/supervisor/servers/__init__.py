"""The Redis servers: how each is reached, asked, and what it proves."""

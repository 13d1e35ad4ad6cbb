"""A server, all kinds of clients at once, for long: `python -m tests.soak`."""

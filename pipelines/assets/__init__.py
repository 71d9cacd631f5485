"""The assets: each brings one thing up to the head of the event log from its own checkpoint."""

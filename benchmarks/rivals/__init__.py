"""Scripts that run in environments of their own, where nothing of ours is."""

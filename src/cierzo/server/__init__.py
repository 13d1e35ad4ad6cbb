"""The HTTP surface: Mistral's API over the engine. Knows nothing of KV blocks."""

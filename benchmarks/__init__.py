"""Measurements, and what was measured (results/)."""

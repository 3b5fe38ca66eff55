"""Calls of the C libraries of macOS and Windows. Nothing is loaded where the system is another."""

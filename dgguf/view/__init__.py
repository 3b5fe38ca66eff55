"""Renderers of a generation's events: each `show(events, …)` draws them and passes them on."""

"""The page at `/`: its files, and the addresses that only it asks."""

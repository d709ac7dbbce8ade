"""The SQL files that make a tenant's identity store, applied in the order of their names."""

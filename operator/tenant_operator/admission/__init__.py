"""What the API server asks about a write, and the answer."""

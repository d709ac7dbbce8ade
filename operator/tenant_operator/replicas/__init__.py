"""Which replica may act on what."""

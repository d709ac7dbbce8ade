"""The domain: what it takes to bring a tenant from asked for to serving traffic, and back to nothing."""

"""A Kubernetes operator that provisions tenants as durable sagas."""

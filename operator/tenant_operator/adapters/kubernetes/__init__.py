"""The Kubernetes API as the domain's ports: objects, Tenants, Events, and the catalogue that watches feed."""

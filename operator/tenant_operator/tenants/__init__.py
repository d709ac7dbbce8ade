"""A Tenant's life: what is asked of it, its journal and status, and what a serving one needs."""

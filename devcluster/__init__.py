"""A real Kubernetes control plane, a PostgreSQL and an SMTP receiver on this machine."""

from devcluster.cluster import AlreadyRunningError, DevCluster, Environment

__all__ = ["AlreadyRunningError", "DevCluster", "Environment"]

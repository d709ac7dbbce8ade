"""Attacks on the product as it runs, by those who would make them: on a real API server and a real PostgreSQL.

Each file is one attacker; what it may do beforehand is said at its top. The cluster is that of the end-to-end tests.
"""

from tests.e2e.conftest import gate, module_world, operator_command, operator_settings, platform, tenant_feed, world

__all__ = ["gate", "module_world", "operator_command", "operator_settings", "platform", "tenant_feed", "world"]

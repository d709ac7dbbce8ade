"""Whether tenants' roles can get in where they do not belong: every database but their own is closed to them.

PostgreSQL knows no exception for a role: what PUBLIC may, every tenant may. So CONNECT is taken from PUBLIC, and given
by name to those who could log in until then.
"""

from typing import Final

from psycopg import sql

from tenant_operator.adapters.postgres_catalog import MARK
from tenant_operator.adapters.postgres_connections import Connection

_OPEN: Final = """
SELECT d.datname::pg_catalog.text, pg_catalog.pg_has_role(d.datdba, 'USAGE')
FROM pg_catalog.pg_database d
WHERE d.datallowconn
  AND NOT coalesce(pg_catalog.starts_with(pg_catalog.shobj_description(d.datdba, 'pg_authid'), %s), false)
  AND EXISTS (
    SELECT FROM pg_catalog.aclexplode(coalesce(d.datacl, pg_catalog.acldefault('d', d.datdba))) a
    WHERE a.grantee = 0 AND a.privilege_type = 'CONNECT')
ORDER BY 1
"""

_OTHERS: Final = """
SELECT rolname::pg_catalog.text FROM pg_catalog.pg_roles
WHERE rolcanlogin AND NOT rolsuper
  AND NOT coalesce(pg_catalog.starts_with(pg_catalog.shobj_description(oid, 'pg_authid'), %s), false)
"""


async def close_doors(admin: Connection, *, close: bool) -> list[str]:
    """Close what is open to everybody, as far as the administrator may and `close` says; a sentence for each database
    that stays open, with the command that closes it."""
    databases = await (await admin.execute(_OPEN, [MARK])).fetchall()
    others = [name for (name,) in await (await admin.execute(_OTHERS, [MARK])).fetchall()] if databases else []
    findings = []
    for database, may in databases:
        if close and may:
            await _close(admin, database, others)
        else:
            findings.append(
                f'tenants\' roles can connect to database "{database}"; as its owner or as a superuser: '
                f'REVOKE CONNECT, TEMPORARY ON DATABASE "{database}" FROM PUBLIC'
            )
    return findings


async def _close(admin: Connection, database: str, others: list[str]) -> None:
    name = sql.Identifier(database)
    async with admin.transaction():
        if others:
            who = sql.SQL(", ").join(map(sql.Identifier, others))
            await admin.execute(sql.SQL("GRANT CONNECT, TEMPORARY ON DATABASE {} TO {}").format(name, who))
        await admin.execute(sql.SQL("REVOKE CONNECT, TEMPORARY ON DATABASE {} FROM PUBLIC").format(name))

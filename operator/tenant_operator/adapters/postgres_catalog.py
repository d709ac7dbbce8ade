"""What the server's catalogs say of databases and roles, and whose they are.

The mark of a tenant is the comment of its roles: only an administrator can write it. A database is its owner's; its own
comment is for people alone, because the owner may change it.
"""

from dataclasses import dataclass
from typing import Final

from tenant_operator.adapters.postgres_connections import Connection, row
from tenant_operator.api.names import LABEL_TENANT_UID
from tenant_operator.saga.errors import OwnershipConflict, Rejected

MARK: Final = f"{LABEL_TENANT_UID}="
"""How the comment of a tenant's role begins."""

_INVALID: Final = -2
"""The connection limit by which PostgreSQL marks a database whose DROP was interrupted."""
_IDENTIFIER_BYTES: Final = 63


@dataclass(frozen=True, slots=True)
class Role:
    """A role; `tag` is the tenant that it is marked as, None if it is not marked."""

    name: str
    tag: str | None


@dataclass(frozen=True, slots=True)
class Database:
    """A database and its owner; `comment` is the tenant that its comment names."""

    name: str
    owner: Role
    limit: int
    comment: str | None

    @property
    def is_invalid(self) -> bool:
        """Whether a DROP was interrupted: nothing is left to do with it but to drop it."""
        return self.limit == _INVALID


def mark(tag: str) -> str:
    """The comment of the roles of a tenant."""
    return MARK + tag


async def find_role(connection: Connection, name: str) -> Role | None:
    """The role of that name."""
    found = await row(
        connection,
        "SELECT pg_catalog.shobj_description(oid, 'pg_authid') FROM pg_catalog.pg_roles WHERE rolname = %s",
        [name],
    )
    return None if found is None else Role(name, _tag(found[0]))


async def find_database(connection: Connection, name: str) -> Database | None:
    """The database of that name."""
    found = await row(
        connection,
        "SELECT o.rolname::pg_catalog.text, pg_catalog.shobj_description(o.oid, 'pg_authid'), d.datconnlimit,"
        " pg_catalog.shobj_description(d.oid, 'pg_database')"
        " FROM pg_catalog.pg_database d JOIN pg_catalog.pg_roles o ON o.oid = d.datdba WHERE d.datname = %s",
        [name],
    )
    return None if found is None else Database(name, Role(found[0], _tag(found[1])), found[2], _tag(found[3]))


def _tag(comment: str | None) -> str | None:
    return comment.removeprefix(MARK) if comment is not None and comment.startswith(MARK) else None


def check_identifiers(*identifiers: str) -> None:
    """PostgreSQL would cut a long name silently, and then two tenants could meet."""
    for identifier in identifiers:
        if not identifier or "\0" in identifier or len(identifier.encode()) > _IDENTIFIER_BYTES:
            raise Rejected(f"{identifier!r} cannot be a PostgreSQL name: 1 to {_IDENTIFIER_BYTES} bytes, no NUL")


def refuse_foreign_role(name: str, role: Role | None, tag: str) -> None:
    """OwnershipConflict if there is such a role and it is not the tenant's."""
    if role is not None and role.tag != tag:
        raise foreign(f'role "{name}"')


def refuse_foreign_database(database: Database | None, tag: str) -> None:
    """OwnershipConflict if there is such a database and it is not the tenant's."""
    if database is not None and database.owner.tag != tag:
        raise foreign(f'database "{database.name}"')


def foreign(what: str) -> OwnershipConflict:
    """The name is somebody else's."""
    return OwnershipConflict(f"{what} exists and does not belong to this tenant")


def absent(database: str) -> Rejected:
    """There is no such database."""
    return Rejected(f'database "{database}" does not exist')

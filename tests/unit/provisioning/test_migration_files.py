"""A folder of migrations is read in order, and what is wrong with it is said at start."""

import hashlib
from pathlib import Path

import pytest

from tenant_operator.provisioning.migration_files import MigrationFileError, load_migrations


def test_the_shipped_migrations_are_in_order_and_need_no_extension() -> None:
    shipped = load_migrations()
    versions = [each.version for each in shipped]
    assert versions == sorted(versions)
    assert versions[0].startswith("0001_")
    assert not [each.version for each in shipped if "CREATE EXTENSION" in each.sql.upper()]


def test_files_are_sorted_and_summed(tmp_path: Path) -> None:
    (tmp_path / "0010_second_step.sql").write_text("SELECT 2;")
    (tmp_path / "0001_first.sql").write_text("SELECT 1;\n")
    (tmp_path / "__init__.py").touch()
    (tmp_path / "..data").mkdir()
    loaded = load_migrations(tmp_path)
    assert [each.version for each in loaded] == ["0001_first.sql", "0010_second_step.sql"]
    assert loaded[0].sql == "SELECT 1;\n"
    assert loaded[0].checksum == hashlib.sha256(b"SELECT 1;\n").hexdigest()


@pytest.mark.parametrize(
    "name",
    ["1_first.sql", "0002-second.sql", "0002_Second.sql", "0002_.sql", "0002_b.SQL", "0002_b.sql.bak", "notes.txt"],
)
def test_a_misnamed_file_is_refused_and_not_left_out(tmp_path: Path, name: str) -> None:
    (tmp_path / "0001_first.sql").write_text("SELECT 1;")
    (tmp_path / name).write_text("SELECT 2;")
    with pytest.raises(MigrationFileError, match=name.replace(".", r"\.")):
        load_migrations(tmp_path)


@pytest.mark.parametrize(
    ("content", "cause"),
    [(b"", "empty"), (b" \n\t\n", "empty"), (b"SELECT '\xff';", "not UTF-8 at byte 8"), (b"SELECT\0 1", "NUL")],
)
def test_a_file_that_cannot_be_applied_is_named(tmp_path: Path, content: bytes, cause: str) -> None:
    (tmp_path / "0001_first.sql").write_bytes(content)
    with pytest.raises(MigrationFileError, match=rf"0001_first\.sql: .*{cause}"):
        load_migrations(tmp_path)


def test_a_number_is_used_once(tmp_path: Path) -> None:
    (tmp_path / "0001_first.sql").write_text("SELECT 1;")
    (tmp_path / "0001_other.sql").write_text("SELECT 2;")
    with pytest.raises(MigrationFileError, match=r"0001_other\.sql: the number 0001 is taken by 0001_first\.sql"):
        load_migrations(tmp_path)


def test_an_empty_or_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MigrationFileError, match="no migrations"):
        load_migrations(tmp_path)
    with pytest.raises(MigrationFileError, match="no such folder"):
        load_migrations(tmp_path / "missing")

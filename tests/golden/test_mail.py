"""The emails read as the files in `mail/`: change those knowingly, they are what customers see.

`UPDATE_GOLDEN=1 pytest tests/golden/test_mail.py` writes them anew, for review.
"""

import os
from pathlib import Path

import pytest

from tenant_operator.provisioning.mail import Email, Facts, Templates

FOLDER = Path(__file__).parent / "mail"
FACTS = Facts(
    tenant="retail-banking",
    organization="Smith & Daughters Bank",
    plan="Starter",
    url="https://banking-smith.tenants.example",
    console_url="https://console.tenants.example",
    support_email="support@tenants.example",
)


def rendered() -> dict[str, str]:
    """The text of each file, by its name."""
    files = {}
    for email in Email:
        mail = Templates().render(email, FACTS, key="key", recipient="admin@smith.example")
        files[f"{email}.txt"] = f"Subject: {mail.subject}\n\n{mail.text}"
        files[f"{email}.html"] = mail.html
    return files


RENDERED = rendered()


@pytest.mark.parametrize("name", RENDERED)
def test_the_email_reads_as_before(name: str) -> None:
    if os.environ.get("UPDATE_GOLDEN"):
        (FOLDER / name).write_text(RENDERED[name], encoding="utf-8")

    assert RENDERED[name] == (FOLDER / name).read_text(encoding="utf-8")


def test_the_folder_holds_nothing_else() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(RENDERED)

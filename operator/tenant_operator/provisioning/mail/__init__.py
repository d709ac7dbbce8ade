"""The emails to the first administrator of a tenant, from Jinja2 templates in this folder.

Each email is three templates: `<name>.subject.j2`, `<name>.txt.j2` and `<name>.html.j2`.
"""

from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from jinja2 import FileSystemLoader, StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tenant_operator.ports import Mail
from tenant_operator.saga.errors import Rejected

_BUILT_IN: Final = Path(__file__).parent
_SUBJECT_LENGTH: Final = 200


class Email(StrEnum):
    """The emails, in the order in which they are sent."""

    WELCOME = "welcome"
    CONSOLE_URL = "console-url"
    ONBOARDING = "onboarding"


@dataclass(frozen=True, slots=True)
class Facts:
    """What the templates may speak of, under these names. `tenant` and `organization` are names for people."""

    tenant: str
    organization: str
    plan: str
    url: str
    console_url: str
    support_email: str


class Templates:
    """The templates of a folder, rendered in a sandbox: values are escaped in HTML and stand as they are in text."""

    def __init__(self, folder: Path = _BUILT_IN) -> None:
        self._environment = ImmutableSandboxedEnvironment(
            loader=FileSystemLoader(folder),
            undefined=StrictUndefined,
            autoescape=_is_html,
            trim_blocks=True,
            keep_trailing_newline=True,
            auto_reload=False,
        )

    def render(self, email: Email, facts: Facts, *, key: str, recipient: str) -> Mail:
        """The email ready to be sent. A template that is missing, broken or speaks of what is not among the facts
        raises Rejected and names it."""
        subject, text, html = (self._part(f"{email}.{kind}.j2", facts) for kind in ("subject", "txt", "html"))
        return Mail(key=key, recipient=recipient, subject=_one_line(subject), text=text, html=html)

    def _part(self, template: str, facts: Facts) -> str:
        try:
            return self._environment.get_template(template).render(asdict(facts))
        except Exception as error:  # a template may fail with anything, and whoever renders it must not
            raise Rejected(f"email template {template}: {str(error) or type(error).__name__}") from error


def _is_html(template: str | None) -> bool:
    return template is not None and template.endswith(".html.j2")


def _one_line(text: str) -> str:
    """`text` fit for a header: whatever was rendered into it, no line break and no control character is left."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(printable.split())[:_SUBJECT_LENGTH]

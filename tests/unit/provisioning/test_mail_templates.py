"""Emails say what the facts are, whatever is in them, and templates can do nothing but say it."""

import dataclasses
from email.message import EmailMessage
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenant_operator.ports import Mail
from tenant_operator.provisioning.mail import Email, Facts, Templates
from tenant_operator.saga.errors import Rejected

FACTS = Facts(
    tenant="banking",
    organization="Bank",
    plan="Starter",
    url="https://banking-bank.tenants.example",
    console_url="https://console.tenants.example",
    support_email="support@tenants.example",
)
HOSTILE = '<script>alert("1")</script> & {{ 7 * 7 }}'


def rendered(email: Email, facts: Facts = FACTS, folder: Path | None = None) -> Mail:
    templates = Templates() if folder is None else Templates(folder)
    return templates.render(email, facts, key="key", recipient="admin@bank.example")


def folder_with(folder: Path, **parts: str) -> Path:
    for kind in ("subject", "txt", "html"):
        (folder / f"welcome.{kind}.j2").write_text(parts.get(kind, "fine"))
    return folder


class Tags(HTMLParser):
    """The tags of a document, and those left open."""

    void = frozenset({"meta", "br", "hr", "img"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_they_go_out_in_this_order() -> None:
    assert [str(email) for email in Email] == ["welcome", "console-url", "onboarding"]


@pytest.mark.parametrize("email", Email)
def test_both_bodies_say_where_the_tenant_is_and_whom_to_ask(email: Email) -> None:
    mail = rendered(email)

    for body in (mail.text, mail.html):
        assert FACTS.url in body
        assert FACTS.support_email in body
        assert FACTS.tenant in body


@pytest.mark.parametrize("email", [Email.CONSOLE_URL, Email.ONBOARDING])
def test_the_console_is_linked(email: Email) -> None:
    mail = rendered(email)

    assert FACTS.console_url in mail.text
    assert f'href="{FACTS.console_url}"' in mail.html


@pytest.mark.parametrize("email", Email)
def test_markup_in_a_fact_stays_text(email: Email) -> None:
    mail = rendered(email, dataclasses.replace(FACTS, organization=HOSTILE))

    assert HOSTILE in mail.text
    assert escape(HOSTILE).replace("&quot;", "&#34;") in mail.html
    assert "script" not in Tags(mail.html).seen


@pytest.mark.parametrize("email", Email)
@pytest.mark.parametrize("fact", ["url", "console_url", "support_email"])
def test_a_fact_cannot_leave_its_attribute(email: Email, fact: str) -> None:
    mail = rendered(email, dataclasses.replace(FACTS, **{fact: 'x"><img src=y>'}))

    assert "img" not in Tags(mail.html).seen


@pytest.mark.parametrize("email", Email)
def test_the_html_is_whole(email: Email) -> None:
    assert Tags(rendered(email).html).open == []


@given(fact=st.text(), email=st.sampled_from(Email))
def test_the_subject_is_always_one_line_that_a_header_can_carry(fact: str, email: Email) -> None:
    subject = rendered(email, dataclasses.replace(FACTS, tenant=fact, organization=fact)).subject

    assert subject.isprintable()
    assert len(subject) <= 200
    message = EmailMessage()
    message["Subject"] = subject
    assert list(message) == ["Subject"]


def test_a_line_break_in_a_fact_starts_no_header() -> None:
    mail = rendered(Email.WELCOME, dataclasses.replace(FACTS, tenant="a\r\nBcc: x@y.example\x00\u2028b"))

    assert mail.subject == "Welcome: a Bcc: x@y.example b of Bank is ready"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ tenent }}", "'tenent' is undefined"),
        ("{{ tenant", "unexpected end of template"),
        ("{{ tenant.__class__.__mro__ }}", "unsafe"),
        ("{{ 1 // 0 }}", "zero"),
        ("{{ tenant + 1 }}", "concatenate"),
        ("{% include 'absent.j2' %}", "absent.j2"),
        ("{% include '../../../../../../etc/hostname' %}", "etc/hostname"),
    ],
)
@pytest.mark.parametrize("kind", ["subject", "txt", "html"])
def test_a_bad_template_is_rejected_by_name(tmp_path: Path, kind: str, template: str, message: str) -> None:
    folder = folder_with(tmp_path, **{kind: template})

    with pytest.raises(Rejected, match=rf"^email template welcome\.{kind}\.j2: .*{message}"):
        rendered(Email.WELCOME, folder=folder)


@pytest.mark.parametrize("template", ["{% if 1 %}" * 300, "{{ " + "(" * 3000 + " }}", "{% include 'welcome.txt.j2' %}"])
def test_a_template_that_is_nested_too_deeply_is_rejected_by_name(tmp_path: Path, template: str) -> None:
    with pytest.raises(Rejected, match=r"^email template welcome\.txt\.j2: "):
        rendered(Email.WELCOME, folder=folder_with(tmp_path, txt=template))


def test_a_missing_template_is_rejected_by_name(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match=r"welcome\.subject\.j2"):
        rendered(Email.WELCOME, folder=tmp_path)

"""A prober that answers what it is told to."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tenant_operator.saga.errors import Rejected, Unavailable
from tests.fakes.hooks import Hook, nothing_happens

Answers = Mapping[str, int] | Callable[[str], int]


@dataclass
class FakeProber:
    """Answers from `answers`: statuses by URL, or a function of the URL. A URL without one refuses the connection.

    `before` and `after` are awaited around the probe with ("status", url); what they raise is raised.
    """

    answers: Answers = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    before: Hook = nothing_happens
    after: Hook = nothing_happens

    async def status(self, url: str, timeout_seconds: float) -> int:
        """The status that `answers` holds for the URL."""
        if not url.startswith(("http://", "https://")):
            raise Rejected(f"GET {url}: not an http or https URL")
        await self.before("status", url)
        self.asked.append(url)
        answer = self.answers(url) if callable(self.answers) else self.answers.get(url)
        if answer is None:
            raise Unavailable(f"GET {url}: connection refused")
        await self.after("status", url)
        return answer

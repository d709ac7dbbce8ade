"""Who may do what, without an API server."""

from tenant_operator.ports import Caller
from tenant_operator.saga.errors import ActivityError


class FakeAccess:
    """`ports.AccessReview` of grants that a test gives to a user or a group, in one namespace or in all."""

    def __init__(self) -> None:
        self.failure: ActivityError | None = None
        self.asked: list[tuple[str, str, str, str]] = []
        self._grants: set[tuple[str, str, str]] = set()
        self._sees: set[tuple[str, str]] = set()

    def grant(self, who: str, verb: str, namespace: str) -> None:
        """Let a user, or everyone in a group, do `verb` to the Tenants of the namespace."""
        self._grants.add((who, verb, namespace))

    async def allowed(self, caller: Caller, verb: str, namespace: str, name: str) -> bool:
        self.asked.append((caller.name, verb, namespace, name))
        if self.failure is not None:
            raise self.failure
        return any((who, verb, namespace) in self._grants for who in (caller.name, *caller.groups))

    def let_see(self, who: str, plural: str) -> None:
        """Let a user, or everyone in a group, see all objects of a kind."""
        self._sees.add((who, plural))

    async def may_list(self, caller: Caller, plural: str) -> bool:
        if self.failure is not None:
            raise self.failure
        return any((who, plural) in self._sees for who in (caller.name, *caller.groups))

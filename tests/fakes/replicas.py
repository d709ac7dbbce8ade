"""Several replicas, as one of them sees them."""

from collections.abc import Hashable


class FakeReplicas:
    """`ports.Replicas`: everything is its own but what is in `others`."""

    def __init__(self) -> None:
        self.others: set[Hashable] = set()

    def mine(self, key: Hashable) -> bool:
        return key not in self.others

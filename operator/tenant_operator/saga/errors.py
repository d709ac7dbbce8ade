"""What an activity may fail with.

ActivityError          a try failed; `can_heal` says whether another try can succeed
├── Unavailable        the other side did not answer, was busy or lost a race: try again
└── Rejected           the other side understood and said no: trying again cannot help
    └── OwnershipConflict  the name is taken by something this saga does not own
"""


class ActivityError(Exception):
    """A failed try of an activity. The message is for people: it names the object and the cause, never a secret."""

    can_heal: bool = True

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class Unavailable(ActivityError):
    """The other side cannot be reached or cannot serve now; a later try may succeed."""


class Rejected(ActivityError):
    """The other side refused for a reason that does not heal by itself: bad input, forbidden, a broken migration."""

    can_heal = False


class OwnershipConflict(Rejected):
    """What the activity wants to create exists and belongs to someone else."""

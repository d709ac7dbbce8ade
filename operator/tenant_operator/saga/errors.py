"""What an activity may fail with, and what a record may turn out to be.

ActivityError              a try failed; `can_heal` says whether another try can succeed
├── Unavailable            busy, or a race lost: another try may succeed. The saga's own affair: its tries are counted
│   └── Outage             a server that all sagas share is away: tried until the timeout, however many tries that takes
│       └── NotAsked       known to be away, and so not even asked: no try at all
└── Rejected               the other side understood and said no: trying again cannot help
    └── OwnershipConflict  the name is taken by something this saga does not own
RecordError                the record is another than was thought: read again and decide again
├── Stale                  a guarded write met a newer one
├── JournalMoved           somebody else carries the saga on
└── Gone                   it was deleted
"""


class ActivityError(Exception):
    """A failed try of an activity. The message is for people: it names the object and the cause, never a secret."""

    can_heal: bool = True

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class Unavailable(ActivityError):
    """It cannot be done now; a later try may succeed."""


class Outage(Unavailable):
    """A server that all sagas share cannot be reached or cannot serve anybody now. None of them is to blame."""


class NotAsked(Outage):
    """The server is known to be away: it was spared the question."""


class Rejected(ActivityError):
    """The other side refused for a reason that does not heal by itself: bad input, forbidden, a broken migration."""

    can_heal = False


class OwnershipConflict(Rejected):
    """What the activity wants to create exists and belongs to someone else."""


class RecordError(Exception):
    """The record is another than was thought. No failure: whoever meets it reads again, or lets go."""


class Stale(RecordError):
    """A guarded write met a newer record: nothing was written."""


class JournalMoved(RecordError):
    """Somebody else wrote to this saga's journal: what this worker knows is out of date, it may write nothing more."""


class Gone(RecordError):
    """The record is not there any more."""

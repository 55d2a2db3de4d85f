"""Why a key was not made or not changed; each text is for the person who asked.

KeyRefused
├── KeyLimitReached   the team has as many keys as it may
├── NameTaken
├── PolicyBroken      the team's policy forbids it
├── BeyondGranted     an admin allowed the key less
├── EndsTooLate       an admin or operator let it live less long
├── Held              an admin or operator disabled the key, and its owner can't enable it
├── AlreadyCreated    this very form has done its work already
├── NotAMember        a key can't belong to somebody who could not use it
└── AlreadyRotating   two secrets live, which is as many as may
"""

from collections.abc import Sequence
from datetime import UTC, datetime


class KeyRefused(Exception):
    """Nothing was created or changed; the text says why, to a person."""


class KeyLimitReached(KeyRefused):
    def __init__(self, limit: int, used: int | None = None) -> None:
        """`used` may be more than the limit, which an operator has lowered."""
        count = limit if used is None else used
        super().__init__(
            f"This team has {count} of {limit} API keys. Delete one that is no longer used, "
            f"or ask an operator to raise the limit."
        )


class NameTaken(KeyRefused):
    def __init__(self) -> None:
        super().__init__("A key with this name already exists in the team.")


class PolicyBroken(KeyRefused):
    """`breaches` are sentences, one for each rule that is broken."""

    def __init__(self, breaches: Sequence[str]) -> None:
        super().__init__(" ".join(breaches))
        self.breaches = list(breaches)


class BeyondGranted(KeyRefused):
    def __init__(self) -> None:
        super().__init__(
            "An admin of the team has set what this key may do. You may narrow it further; "
            "to widen it, ask an admin."
        )


class EndsTooLate(KeyRefused):
    def __init__(self, latest: datetime) -> None:
        super().__init__(
            f"An admin of the team or an operator has set that this key ends at "
            f"{latest.astimezone(UTC):%Y-%m-%d %H:%M} UTC at the latest. You may bring its end "
            f"closer; to put it off, ask an admin."
        )


class Held(KeyRefused):
    def __init__(self) -> None:
        super().__init__(
            "An admin of the team or an operator has disabled this key. To enable it, ask an admin."
        )


class AlreadyCreated(KeyRefused):
    def __init__(self) -> None:
        super().__init__("This form has already created its key.")


class NotAMember(KeyRefused):
    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is no member of this team who could own a key.")


class AlreadyRotating(KeyRefused):
    def __init__(self) -> None:
        super().__init__(
            "This key has two secrets already. End the old one first, or rotate with no overlap."
        )

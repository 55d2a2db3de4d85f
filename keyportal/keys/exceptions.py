"""Why a key was not made or not changed; each text is for the person who asked.

KeyRefused
├── KeyLimitReached   the team has as many keys as it may
├── NameTaken
├── PolicyBroken      the team's policy forbids it
├── Managed           an admin manages the key, and this is not for its owner to change
├── AlreadyCreated    this very form has done its work already
├── NotAMember        a key can't belong to somebody who could not use it
└── AlreadyRotating   two secrets live, which is as many as may
"""

from collections.abc import Sequence


class KeyActionError(Exception):
    """Nothing was created or changed; the text says why, to a person."""


class KeyLimitReached(KeyActionError):
    def __init__(self, limit: int, used: int | None = None) -> None:
        """`used` may be more than the limit, which an operator has lowered."""
        count = limit if used is None else used
        super().__init__(
            f"This team has {count} of {limit} API keys. Delete one that is no longer used, "
            f"or ask an operator to raise the limit."
        )


class NameTaken(KeyActionError):
    def __init__(self) -> None:
        super().__init__("A key with this name already exists in the team.")


class PolicyViolation(KeyActionError):
    """`violations` are sentences, one for each rule that is broken."""

    def __init__(self, violations: Sequence[str]) -> None:
        super().__init__(" ".join(violations))
        self.violations = list(violations)


class ManagedByAdmin(KeyActionError):
    def __init__(self) -> None:
        super().__init__(
            "An admin manages this key: only an admin of the team can change its permissions, "
            "limits, expiry and owner, or enable it. You may edit, rotate, disable and delete it."
        )


class NonceAlreadyUsed(KeyActionError):
    def __init__(self) -> None:
        super().__init__("This form has already created its key.")


class NotAMember(KeyActionError):
    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is no member of this team who could own a key.")


class AlreadyRotating(KeyActionError):
    def __init__(self) -> None:
        super().__init__(
            "This key has two secrets already. End the old one first, or rotate with no overlap."
        )

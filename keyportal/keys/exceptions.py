"""Why a key was not created or not changed. The messages are for the user.

KeyActionError
├── KeyLimitReached    the team has as many keys as it may have
├── NameTaken
├── PolicyViolation    the team's policy forbids it
│   └── EndsWithSession    a program's key lasts as long as a session of its owner
├── LeakNotAccepted    the key was reported as leaked, and enabling it was not confirmed
├── ManagedByAdmin     an admin manages the key, and its owner may not change this
├── NonceAlreadyUsed   the same form was submitted before
├── NotAMember         the new owner could not use the key
└── AlreadyRotating    the key has two live secrets, and there can be no third
"""

from collections.abc import Sequence


class KeyActionError(Exception):
    """Nothing was created or changed."""


class KeyLimitReached(KeyActionError):
    def __init__(self, limit: int, used: int | None = None) -> None:
        """`used` can be more than the limit if an operator lowered the limit."""
        count = limit if used is None else used
        super().__init__(
            f"This team has {count} of {limit} API keys. Delete a key that is no longer used, "
            f"or ask an operator to raise the limit."
        )


class NameTaken(KeyActionError):
    def __init__(self) -> None:
        super().__init__("A key with this name already exists in the team.")


class PolicyViolation(KeyActionError):
    """`violations` has a sentence for each broken rule."""

    def __init__(self, violations: Sequence[str]) -> None:
        super().__init__(" ".join(violations))
        self.violations = list(violations)


class ManagedByAdmin(KeyActionError):
    def __init__(self) -> None:
        super().__init__(
            "An admin manages this key: only an admin of the team can change its permissions, "
            "limits, expiry and owner, or enable it. You may edit, rotate, disable and delete it."
        )


class EndsWithSession(PolicyViolation):
    def __init__(self) -> None:
        sentence = (
            "A program got this key by signing in, so it ends with its owner's session. Its expiry "
            "and owner can't be changed: create a key for a program that runs longer."
        )
        super().__init__([sentence])


class LeakNotAccepted(KeyActionError):
    def __init__(self) -> None:
        super().__init__(
            "This key was reported as leaked. Enabled, its leaked secret works again. Rotate the "
            "key instead, or accept the leak."
        )


class NonceAlreadyUsed(KeyActionError):
    def __init__(self) -> None:
        super().__init__("This form has already created its key.")


class NotAMember(KeyActionError):
    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is not a member of this team who can own keys.")


class AlreadyRotating(KeyActionError):
    def __init__(self) -> None:
        super().__init__(
            "This key already has two secrets. End the old one first, or rotate so that the old "
            "secret stops working now."
        )

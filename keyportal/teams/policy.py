"""What a team asks of its keys: how long they live, what they may open, and who makes them.

A key that was there before a stricter policy goes on; it is listed, not killed.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from keyportal.teams.values import ValueField, lists_to_tuples, tuples_to_lists


class Policy(NamedTuple):
    longest_days: int | None = None
    """The longest that a key may live, from when it is made or changed on. None: no bound."""
    must_expire: bool = False
    """No key without a date of expiry."""
    models: tuple[str, ...] = ()
    """Served names and patterns that a key may call. Empty: all that the team may."""
    endpoints: tuple[str, ...] = ()
    """What a key may be opened for, as in `keys.permissions.Endpoints`. Empty: anything."""
    keys_per_member: int | None = None
    name_pattern: str = ""
    """A glob such as `ci-*`; only `*` has a meaning. Empty: any name."""
    creators: str = "member"
    """The weakest role that may make keys."""
    rotation_days: int | None = None
    """The age of a secret from which its rotation is advised. None: no advice."""

    @property
    def requires_expiry(self) -> bool:
        """Whether every key needs an end."""
        return self.must_expire or self.longest_days is not None

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """From what `stored` gave. Raises `TypeError` for what is none of it."""
        return cls(**lists_to_tuples(stored))

    def to_json(self) -> dict[str, Any]:
        """Only what differs from a team without a policy."""
        found = self._asdict().items()
        return tuples_to_lists(
            {name: value for name, value in found if value != getattr(NO_POLICY, name)}
        )

    def changes_from(self, former: "Policy") -> list[str]:
        """A phrase for each rule that differs, such as `Longest lifetime in days: none → 90`."""
        return [
            f"{LABELS[name]}: {_describe(before)} → {_describe(now)}"
            for name, before, now in zip(self._fields, former, self, strict=True)
            if before != now
        ]

    def describe(self) -> dict[str, str]:
        """Each rule by its label, and what it says."""
        return {LABELS[name]: _describe(value) for name, value in self._asdict().items()}


NO_POLICY = Policy()
LABELS = {
    "longest_days": "Longest lifetime in days",
    "must_expire": "Every key expires",
    "models": "Models",
    "endpoints": "Endpoints",
    "keys_per_member": "Keys per member",
    "name_pattern": "Name pattern",
    "creators": "Weakest role that makes keys",
    "rotation_days": "Rotation advised after days",
}


def _describe(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(value) or "any"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value or "none")


class PolicyField(ValueField):
    """`Policy` in a column."""

    value_class = Policy

"""A team's policy: how long its keys may be valid, what they may access, who may create them.

A key that violates a policy which became stricter later keeps working; the health page lists it.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from keyportal.teams.values import ValueField, lists_to_tuples, tuples_to_lists


class Policy(NamedTuple):
    max_lifetime_days: int | None = None
    """Maximum lifetime of a key, from its creation or last change of expiry. None: no maximum."""
    must_expire: bool = False
    """Whether every key needs an expiry."""
    models: tuple[str, ...] = ()
    """Names and patterns of served models that a key may call. Empty: all that the team may."""
    endpoints: tuple[str, ...] = ()
    """Values of `keys.rules.permissions.Endpoints` that a key may have. Empty: any."""
    max_keys_per_member: int | None = None
    name_pattern: str = ""
    """A pattern for key names such as `ci-*`; only `*` is special. Empty: any name."""
    min_creator_role: str = "member"
    """The lowest role that can create keys."""
    rotation_days: int | None = None
    """The age in days from which rotation of a secret is advised. None: no advice."""
    service_accounts_only: bool = False
    """Whether only service accounts may own keys."""
    second_factor_days: int | None = None
    """Days within which a member must set up a second factor; 0: at once. None: not required."""

    @property
    def requires_expiry(self) -> bool:
        """Whether a key without an expiry violates the policy."""
        return self.must_expire or self.max_lifetime_days is not None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`. Raises `TypeError` for unknown fields."""
        return cls(**lists_to_tuples(data))

    def to_json(self) -> dict[str, Any]:
        """Only the fields that differ from `NO_POLICY`."""
        fields = self._asdict().items()
        return tuples_to_lists(
            {name: value for name, value in fields if value != getattr(NO_POLICY, name)}
        )

    def changes_from(self, former: "Policy") -> list[str]:
        """A text for each rule that differs, such as `Maximum lifetime in days: none → 90`."""
        return [
            f"{LABELS[name]}: {_describe(before)} → {_describe(now)}"
            for name, before, now in zip(self._fields, former, self, strict=True)
            if before != now
        ]

    def describe(self) -> dict[str, str]:
        """The value of each rule as text, by its label."""
        return {LABELS[name]: _describe(value) for name, value in self._asdict().items()}


NO_POLICY = Policy()
LABELS = {
    "max_lifetime_days": "Maximum lifetime in days",
    "must_expire": "Every key expires",
    "models": "Models",
    "endpoints": "Endpoints",
    "max_keys_per_member": "Maximum keys per member",
    "name_pattern": "Name pattern",
    "min_creator_role": "Lowest role that can create keys",
    "rotation_days": "Rotation advised after days",
    "second_factor_days": "Days to set up a second factor",
    "service_accounts_only": "Only service accounts own keys",
}


def _describe(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(value) or "any"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value in (None, "") else str(value)


class PolicyField(ValueField):
    """A model field whose value is `Policy`."""

    value_class = Policy

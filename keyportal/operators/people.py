"""What operators do with people: deactivate, activate, make operator, take that back."""

from keyportal.operators.access import lock_operators
from keyportal.teams.models import User


def set_active(person: User, *, is_active: bool, actor: User) -> None:
    """Deactivation ends sessions, and disables keys for good. Raises `LastOperator`."""
    _save(person, {"is_active": is_active}, actor)


def set_operator(person: User, *, is_operator: bool, actor: User) -> None:
    """Raises `LastOperator`."""
    _save(person, {"is_superuser": is_operator, "is_staff": is_operator}, actor)


def _save(person: User, flags: dict[str, bool], actor: User) -> None:
    """The row is read again under the lock; its audit and what ends with it follow from signals."""
    with lock_operators(actor):
        row = User.objects.select_for_update(no_key=True).get(pk=person.pk)
        for name, value in flags.items():
            setattr(row, name, value)
        row.save(update_fields=flags)

"""What operators do with people: deactivate, activate, make operator, reset second factors."""

from keyportal.operators.access import lock_operators
from keyportal.teams.models import User
from keyportal.teams.sign_in import factors


def set_active(person: User, *, is_active: bool, actor: User) -> None:
    """Deactivation ends sessions, and disables keys for good. Raises `LastOperator`.

    Also of somebody whom a directory deactivated, and who then stays so.
    """
    _save(person, {"is_active": is_active, "is_off_by_directory": False}, actor)


def set_operator(person: User, *, is_operator: bool, actor: User) -> None:
    """Raises `LastOperator`."""
    _save(person, {"is_superuser": is_operator, "is_staff": is_operator}, actor)


def reset_factors(person: User, *, actor: User) -> None:
    """For a person who lost their second factors. Their sessions end, and a mail tells them."""
    with lock_operators(actor):
        factors.reset(person)


def _save(person: User, flags: dict[str, bool], actor: User) -> None:
    """The row is read again under the lock; its audit and what ends with it follow from signals."""
    with lock_operators(actor):
        row = User.objects.select_for_update(no_key=True).get(pk=person.pk)
        for name, value in flags.items():
            setattr(row, name, value)
        row.save(update_fields=flags)

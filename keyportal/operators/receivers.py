"""The last operator stays one, whatever page, command or program saves or deletes them."""

from collections.abc import Collection

from django.core.exceptions import PermissionDenied
from django.db.models.signals import pre_delete, pre_save
from django.dispatch import receiver

from keyportal.operators.access import locked_operators
from keyportal.teams.models import User


class LastOperator(PermissionDenied):
    def __init__(self) -> None:
        super().__init__(
            "This is the last operator. Make another person an operator first, so that somebody "
            "can still run this installation."
        )


@receiver(pre_save, sender=User)
def keep_an_operator(
    instance: User, update_fields: Collection[str] | None = None, **_: object
) -> None:
    is_left = instance.is_active and instance.is_superuser
    saves_flag = update_fields is None or {"is_active", "is_superuser"} & {*update_fields}
    if saves_flag and not is_left and not instance._state.adding:
        _require_another(instance)


@receiver(pre_delete, sender=User)
def keep_an_operator_from_deletion(instance: User, **_: object) -> None:
    _require_another(instance)


def _require_another(user: User) -> None:
    """Raises `LastOperator`. Attack: two operators take the flag from each other at once."""
    if not User.objects.filter(pk=user.pk, is_active=True, is_superuser=True).exists():
        return
    locked = locked_operators()
    if user.pk in locked and len(locked) == 1:
        raise LastOperator

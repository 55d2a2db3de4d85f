"""Audit events for changes of rows, wherever they are made: Django's admin, commands, other code.

Bulk operations send no signal: code that uses them records its own events.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from django.db.models import Model
from django.db.models.signals import post_delete, post_save, pre_save

from keyportal.audit.models import Action, AuditEvent
from keyportal.audit.source import current_source
from keyportal.teams.models import Team

_FORMER = "audited_values"  # In the row, from before it is saved until after it.


def _no_team(_: Any) -> None:
    return None


@dataclass(frozen=True)
class Tracked:
    """What is recorded of a model's rows."""

    action: Action
    columns: tuple[str, ...]
    secrets: tuple[str, ...] = ()
    """Columns of which only a change is recorded, and never a value."""
    target: Callable[[Any], str] = str
    team: Callable[[Any], Team | None] = _no_team

    def values(self, row: Model) -> dict[str, Any]:
        return {name: getattr(row, name) for name in (*self.columns, *self.secrets)}

    def record(self, row: Model, changes: Collection[str]) -> None:
        AuditEvent.objects.record_changes(
            self.action,
            target=self.target(row)[:100],
            changes=changes,
            team=self.team(row),
            **current_source(),
        )

    def changes(self, former: dict[str, Any], values: dict[str, Any]) -> list[str]:
        """Texts such as `Role: member → admin`, for what differs."""
        return [
            f"{_label(name)}: changed"
            if name in self.secrets
            else f"{_label(name)}: {_text(former.get(name))} → {_text(value)}"
            for name, value in values.items()
            if value != former.get(name) and (value or former.get(name))
        ]


def track(model: type[Model], tracked: Tracked) -> None:
    """Record an event when a row of the model is created, changed or deleted."""
    names = (*tracked.columns, *tracked.secrets)

    def before_save(
        instance: Model, update_fields: Collection[str] | None = None, **_: object
    ) -> None:
        row = None
        if update_fields is None or {*names} & {*update_fields}:
            row = model._base_manager.filter(pk=instance.pk).only(*names).first()
        instance.__dict__[_FORMER] = tracked.values(row) if row else None

    def after_save(
        instance: Model,
        created: bool,
        update_fields: Collection[str] | None = None,
        **_: object,
    ) -> None:
        former = instance.__dict__.pop(_FORMER, None)
        if not created and former is None:
            return
        columns = tracked.columns if created else names
        saved = [name for name in columns if update_fields is None or name in update_fields]
        changes = tracked.changes(former or {}, {name: getattr(instance, name) for name in saved})
        if created or changes:
            tracked.record(instance, ["created"] * created + changes)

    def after_delete(instance: Model, **_: object) -> None:
        tracked.record(instance, ["deleted"])

    for signal, receiver in (
        (pre_save, before_save),
        (post_save, after_save),
        (post_delete, after_delete),
    ):
        # Not weak: nothing else refers to these functions.
        signal.connect(receiver, sender=model, weak=False)


def _label(name: str) -> str:
    words = name.removeprefix("encrypted_").removeprefix("is_").removesuffix("_id")
    return words.replace("_", " ").capitalize()


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value in (None, "") else str(value)

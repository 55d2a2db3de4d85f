"""A small value class in a column of JSON: only what is set is stored, so `{}` is the default."""

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, Self

from django.core.exceptions import ValidationError
from django.db import models


def tuples_to_lists(values: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON has them."""
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in values.items()
    }


def lists_to_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """As a value class has them: what can't be changed can be compared and hashed."""
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }


class Value(Protocol):
    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self: ...

    def to_json(self) -> dict[str, Any]: ...


class ValueField(models.JSONField):
    value_class: ClassVar[type[Value]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("default", self.value_class)
        kwargs["blank"] = True
        super().__init__(*args, **kwargs)

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> Any:
        stored = super().from_db_value(value, expression, connection)
        return stored if stored is None else self.value_class.from_json(stored)

    def get_db_prep_value(self, value: Any, connection: Any, prepared: bool = False) -> Any:
        return super().get_db_prep_value(self._stored(value), connection, prepared)

    def get_db_prep_save(self, value: Any, connection: Any) -> Any:
        return super().get_db_prep_save(self._stored(value), connection)

    def value_to_string(self, obj: models.Model) -> Any:
        return self._stored(self.value_from_object(obj))

    def to_python(self, value: Any) -> Any:
        if value is None or isinstance(value, self.value_class):
            return value
        try:
            return self.value_class.from_json(value)
        except (TypeError, ValueError):
            raise ValidationError(f"This is no {self.value_class.__name__}.") from None

    def _stored(self, value: Any) -> Any:
        return value.to_json() if isinstance(value, self.value_class) else value

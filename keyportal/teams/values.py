"""A JSON model field for small immutable classes. Default values are not stored."""

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, Self

from django.core.exceptions import ValidationError
from django.db import models


def tuples_to_lists(values: Mapping[str, Any]) -> dict[str, Any]:
    """For JSON, which has no tuples."""
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in values.items()
    }


def lists_to_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """For value classes, which are hashable and therefore hold no lists."""
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }


class Value(Protocol):
    """A class that `ValueField` can store."""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self: ...

    def to_json(self) -> dict[str, Any]: ...


class ValueField(models.JSONField):
    """Base class of fields that store a `value_class` as JSON."""

    value_class: ClassVar[type[Value]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("default", self.value_class)
        kwargs["blank"] = True
        super().__init__(*args, **kwargs)

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> Any:
        data = super().from_db_value(value, expression, connection)
        return None if data is None else self.value_class.from_json(data)

    def get_db_prep_value(self, value: Any, connection: Any, prepared: bool = False) -> Any:
        return super().get_db_prep_value(self._to_json(value), connection, prepared)

    def get_db_prep_save(self, value: Any, connection: Any) -> Any:
        return super().get_db_prep_save(self._to_json(value), connection)

    def value_to_string(self, obj: models.Model) -> Any:
        return self._to_json(self.value_from_object(obj))

    def to_python(self, value: Any) -> Any:
        if value is None or isinstance(value, self.value_class):
            return value
        try:
            return self.value_class.from_json(value)
        except (TypeError, ValueError):
            raise ValidationError(
                f"This is not a valid {self.value_class.__name__} value."
            ) from None

    def _to_json(self, value: Any) -> Any:
        return value.to_json() if isinstance(value, self.value_class) else value

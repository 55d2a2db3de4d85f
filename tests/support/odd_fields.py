"""A query or form in which every field that a page asks for has the same odd value.

So a test need not know the names of the fields.
"""

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, HttpResponseBase, QueryDict


class OddFields(QueryDict):
    """`client.get(path, odd=OddFields("\\x00"))`, with the middleware below."""

    def __init__(self, value: str) -> None:
        super().__init__(mutable=True)
        self.value = value
        self.names: set[str] = set()
        """The fields that the page asked for."""

    def __bool__(self) -> bool:
        return True

    def __contains__(self, name: object) -> bool:
        self.names.add(str(name))
        return True

    def __getitem__(self, name: str) -> str:  # `get` uses it.
        self.names.add(name)
        return self.value

    def getlist(self, name: str, default: object = None) -> Any:
        self.names.add(name)
        return [self.value]

    def copy(self) -> Any:
        return QueryDict(mutable=True)  # For a link.


def give_odd_fields(
    get_response: Callable[[HttpRequest], HttpResponseBase],
) -> Callable[[HttpRequest], HttpResponseBase]:
    """A middleware. It takes the fields from the environment of the request."""

    def respond(request: HttpRequest) -> HttpResponseBase:
        if fields := request.META.get("odd"):
            # Read them before: reading the files later would replace the form.
            assert not (request.body and request.FILES)
            setattr(request, str(request.method), fields)  # `request.GET` or `request.POST`.
        return get_response(request)

    return respond

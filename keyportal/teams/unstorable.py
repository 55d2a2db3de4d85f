"""What an address can hold, and no text in PostgreSQL: the character NUL."""

from urllib.parse import unquote

from django.db import DataError
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.deprecation import MiddlewareMixin
from django.views import defaults


class NulIsABadRequest(MiddlewareMixin):
    """For what no form has judged, such as the filters in the addresses of Django's admin.

    Where a number is wanted, it fails before a database is asked.
    """

    def process_exception(
        self, request: HttpRequest, exception: Exception
    ) -> HttpResponseBase | None:
        if isinstance(exception, DataError | ValueError) and "\0" in unquote(
            request.get_full_path()
        ):
            return defaults.bad_request(request, exception)
        return None

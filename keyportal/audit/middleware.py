"""Middleware: tells the audit which request is being answered."""

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.deprecation import MiddlewareMixin

from keyportal.audit.source import set_request


class AuditSourceMiddleware(MiddlewareMixin):
    """So that a change of a person or a model server has its actor and address, whatever page or
    signal makes it."""

    def process_request(self, request: HttpRequest) -> None:
        set_request(request)

    def process_response(self, _: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        set_request(None)
        return response

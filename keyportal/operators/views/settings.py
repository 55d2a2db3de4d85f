"""The page of the settings in force."""

from django.http import HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from keyportal.operators.access import OperatorRequest, operator_view
from keyportal.operators.settings_in_force import settings_in_force


@require_safe
@operator_view
def in_force(request: OperatorRequest) -> HttpResponse:
    return render(request, "operators/settings.html", {"settings": list(settings_in_force())})

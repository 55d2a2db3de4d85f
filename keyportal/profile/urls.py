"""URLs under /profile/. Those of second factors are in `keyportal.teams.sign_in.urls`."""

from django.urls import path
from django.views.decorators.cache import never_cache

from keyportal.profile import views

app_name = "profile"
urlpatterns = [
    path("", never_cache(views.profile), name="profile"),
    path("email/", never_cache(views.email), name="email"),
    path("email/<str:token>/", never_cache(views.email_confirm), name="email_confirm"),
    path("sessions/", never_cache(views.session_list), name="sessions"),
    path("history/", never_cache(views.history), name="history"),
]

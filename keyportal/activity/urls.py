"""Under /teams/<slug>/: what happened."""

from django.urls import path

from keyportal.activity import views

app_name = "activity"
urlpatterns = [path("audit/", views.audit, name="audit")]

"""Under /teams/<slug>/: the page of models that the team's keys can call."""

from django.urls import path

from keyportal.catalog import views

app_name = "catalog"
urlpatterns = [path("models/", views.models, name="models")]

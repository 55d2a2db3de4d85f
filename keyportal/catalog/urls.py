"""Under /teams/<slug>/: what its keys can call."""

from django.urls import path

from keyportal.catalog import views

app_name = "catalog"
urlpatterns = [path("models/", views.models, name="models")]

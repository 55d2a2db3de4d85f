from django.apps import AppConfig


class NotificationsConfig(AppConfig):
    name = "keyportal.notifications"
    label = "notifications"

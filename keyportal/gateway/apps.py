from django.apps import AppConfig


class GatewayConfig(AppConfig):
    name = "keyportal.gateway"
    label = "gateway"

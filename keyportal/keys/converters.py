"""The public id of a key as a part of a URL, for both kinds of keys."""

from django.urls import register_converter
from django.urls.converters import StringConverter

from keyportal.keys import keystring


class PublicIdConverter(StringConverter):
    """Text that cannot be a public id matches no URL and never reaches the database: PostgreSQL
    fails on the character NUL."""

    regex = keystring.PUBLIC_ID


register_converter(PublicIdConverter, "public_id")
PUBLIC_ID = "<public_id:public_id>"
"""For URL patterns. Importing it registers the converter."""

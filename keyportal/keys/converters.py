"""A key's public id as a part of an address, of whichever kind the key is."""

from django.urls import register_converter
from django.urls.converters import StringConverter

from keyportal.keys import keystring


class PublicIdConverter(StringConverter):
    """What can't be one is at no address, and no database is asked for it: PostgreSQL fails over
    the character NUL."""

    regex = keystring.PUBLIC_ID


register_converter(PublicIdConverter, "public_id")
PUBLIC_ID = "<public_id:public_id>"
"""In an address; whoever takes it from here has it registered."""

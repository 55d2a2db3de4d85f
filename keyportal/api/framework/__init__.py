"""The management API's framework: declaring operations, authentication, parsing, problems."""

"""Sign-in at identity providers by OpenID Connect: providers, ID tokens, accounts, groups."""

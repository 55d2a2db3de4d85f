"""Changes of memberships, also in Django's admin. A team keeps an owner."""

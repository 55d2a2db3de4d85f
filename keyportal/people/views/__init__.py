"""The members page, invitations, and the page where somebody accepts one."""

"""How an operation of the management API is declared, read, authorised, counted and answered."""

"""Views under /operators/, one module for each entry of the navigation."""

"""Sign-in for programs: OAuth's device flow, which gives a program a key that ends by itself."""

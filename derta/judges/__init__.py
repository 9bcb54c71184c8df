"""Judges that are models, and servers as backends."""

"""Faces: Tables 2 and 3."""

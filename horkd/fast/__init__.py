"""Distances, angles and their gradients by hand."""

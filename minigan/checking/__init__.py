"""Checks of every gradient, and mistakes that prove that the checks work."""

"""Checks of every gradient, and planted mistakes that show that the checks catch errors."""

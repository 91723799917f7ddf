"""Measure the speed of training steps and functions."""

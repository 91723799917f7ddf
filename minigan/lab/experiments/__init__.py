"""Experiments that anyone can repeat. Each module defines EXPERIMENT, and `minigan experiment --list` lists them."""

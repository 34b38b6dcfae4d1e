"""A finished run handed on: plain directory, model card, hub."""

"""Attacks: prompt rows in, model inputs out."""

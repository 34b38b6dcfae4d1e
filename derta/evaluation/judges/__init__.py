"""Judges: a response in, a verdict out."""

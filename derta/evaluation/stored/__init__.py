"""Responses that are on disk already, and what judges say of them."""

"""Rates, means and their intervals: pure functions of numbers, without torch."""

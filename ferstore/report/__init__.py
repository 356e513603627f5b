"""Figures and pages that people look at, from plain arrays and values."""

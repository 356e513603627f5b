"""Batch entry points and their job files: parse, call, exit code; no logic."""

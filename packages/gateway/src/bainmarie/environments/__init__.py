"""Isolated Python environments: what one shall hold, how it is locked, built, checked, found again."""

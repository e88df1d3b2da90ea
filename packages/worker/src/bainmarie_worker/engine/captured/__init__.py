"""Passes over few tokens that an accelerator replays: captured once, launched as a whole."""

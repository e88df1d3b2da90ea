"""The fastest way on a processor: a known kind of decoder in one call of compiled code."""

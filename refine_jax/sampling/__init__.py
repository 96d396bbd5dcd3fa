"""Strings in, records out: decoding, scoring and sessions."""

"""Flags, composition and one binary per stage."""

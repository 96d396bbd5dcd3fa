"""What a program would need on hardware that is not here."""

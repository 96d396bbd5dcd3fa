"""The published methods, as plain Python over engines and tasks."""

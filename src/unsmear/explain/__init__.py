"""What a network did to one picture, drawn for a person: see docs/explain.md."""

"""How fast networks are here, what memory they take, and how far that is from what the machine can do."""

"""Methods: a folder is a kind, a file is a method."""

"""Data to text. Nothing here asks or changes anything."""

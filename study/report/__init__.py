"""Answers as sections of notes, tables and figures, and the forms that show them."""

"""The A64 instruction set: words in, facts out. Knows nobody. Read on: encodings.py, the table."""

"""What Linux keeps about its own text. May know: a64/, target/, patch/. Read on: symbols.py for its names."""

"""The facts that Linux keeps about its own text. Read on: symbols.py for its names."""

"""The heart: changing text under executing CPUs. Read on: text.py."""

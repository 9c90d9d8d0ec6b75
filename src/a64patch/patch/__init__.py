"""The heart: changing text under executing CPUs. May know: a64/ and target/base. Read on: text.py."""

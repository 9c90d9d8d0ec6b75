"""The rows, a file for each main group of Arm ARM C4.1. Read on: ../encodings.py puts them together."""

"""What makes pages of the documentation out of the source.

Read on: instructions.py.
"""

"""Functions of an object file as a patch: what a linker does, but into a program that is linked already, or running.

Read on: link.py.
"""

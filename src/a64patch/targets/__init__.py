"""Targets: places of A64 text, with the CPUs that may be executing it.

Read on: base.py for the protocol; ../openers.py for all kinds there are.
"""

"""Where A64 text lives and who may be executing it.

Read on: base.py for the protocol; ../openers.py for all kinds there are.
"""

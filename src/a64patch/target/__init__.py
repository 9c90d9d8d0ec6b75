"""Where A64 text lives and who may be executing it. May know: a64/. Read on: base.py for the protocol."""

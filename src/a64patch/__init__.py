"""patch(1) for AArch64 machine code."""

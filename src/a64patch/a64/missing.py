"""Mnemonics that the table has no row for, and the features that they came with: for error messages.

Read on: assembler.py refuses them; README.md, Limits, lists the features.

Source: Arm's machine-readable A64 encodings of March 2026. A mnemonic that the table gets goes from here:
tests/a64/test_assembler.py finds those that are in both places.
"""

from __future__ import annotations

import re

_FEATURES = {
    # Feature: a pattern for its mnemonics. Forms of mnemonics that the table has are not here.
    "FEAT_F16MM, FEAT_F16F32MM, FEAT_F8F16MM or FEAT_F8F32MM": "fmmla",
    "FEAT_GCIE": "gicr?|gsb",
    "FEAT_LSCP": "stlp|ldapp?",
    "FEAT_LSFE": "(?:ldb?f(?:add|max|min|maxnm|minnm)a?|stb?f(?:add|max|min|maxnm|minnm))l?",
    "FEAT_LSUI": "casp?a?l?t|(?:swpt|ldt(?:add|clr|set))a?l?|stt(?:add|clr|set)l?|sttn?p|ldtn?p|stl?txr|lda?txr",
    "FEAT_MOPS_GO": "setgo[pme]t?n?",
    "FEAT_S1POE2": "tchange[bf]|plbi",
    "FEAT_TEV": "tenter|texit",
    "SVE or SME": "adds?[vp]l|rds?vl|cterm(?:eq|ne)|cnt[bhwd]|[su]?q?(?:inc|dec)[bhwdp]|setffr|movt",
}


def missing_feature(mnemonic: str) -> str:
    """The feature of a mnemonic in lower case that the table lacks; "" for every other text."""
    return next((feature for feature, names in _FEATURES.items() if re.fullmatch(names, mnemonic, re.ASCII)), "")

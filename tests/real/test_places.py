"""What the tests of live patching change is found in the code that different compilers made of the same C."""

from __future__ import annotations

import re

import pytest

from tests.real.live import RAM, UPTIME
from tests.real.places import Rewrite

CALL = "bl seq_printf\n"
MEMSET = "bl brd_submit_bio+0x29c\n"


@pytest.mark.parametrize(
    ("rewrite", "before", "old", "new", "call"),
    [
        (UPTIME, "add x6, x6, x3\n", "sub x3, x6, x3\nlsr x5, x5, #23\n", "mov x3, #1234\nmov x5, #5678\n", CALL),
        (
            UPTIME,
            "umulh x5, x5, x0\nsmulh x0, x3, x0\n",
            "lsr x5, x5, #23\nasr x0, x0, #23\nsub x3, x0, x3, asr #63\nmov x0, x23\n",
            "mov x5, #5678\nasr x0, x0, #23\nmov x3, #1234\nmov x0, x23\n",
            CALL,
        ),
        (
            RAM,
            "b brd_submit_bio+0x1bc\n",
            "ldr x2, [sp, #96]\nmov w1, #0\nldr x0, [sp, #112]\n",
            "ldr x0, [sp, #112]\nldr x2, [sp, #96]\nmov w1, #0xa5\n",
            MEMSET,
        ),
        (
            RAM,
            "mov w2, w20\nadd x0, x1, x0, lsr #6\n",
            "mov w1, #0\nadd x0, x19, x0, lsl #12\n",
            "add x0, x19, x0, lsl #12\nmov w1, #0xa5\n",
            MEMSET,
        ),
    ],
)
def test_what_changes_is_found_in_each_order(rewrite: Rewrite, before: str, old: str, new: str, call: str) -> None:
    match = re.search(rewrite.old, before + old + call, re.MULTILINE)
    assert match is not None
    assert (match["old"], rewrite.new(match)) == (old, new)


@pytest.mark.parametrize(
    "code",
    [
        "lsr x5, x5, #23\nsub x3, x0, x3\nadd x2, x2, x3\n",
        "sub x3, x0, x3\nstr x5, [sp]\n",
        "sub x3, x0, x3\nb uptime_proc_show+0x20\nlsr x5, x5, #23\n",
    ],
)
def test_a_fraction_that_is_used_before_the_call_is_left_alone(code: str) -> None:
    assert re.search(UPTIME.old, code + CALL, re.MULTILINE) is None

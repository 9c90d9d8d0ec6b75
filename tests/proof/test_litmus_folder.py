"""Real litmus tests, Arm's and the paper's, when somebody has them: `A64PATCH_LITMUS` or `../shared/litmus`.

They are other people's files and not part of this project, so nothing here depends on them: without the folder there
is no test. Its `verdicts.csv` (instruction fetch) and `verdicts-data.csv` have the columns file and expected: Allowed,
Forbidden or Required. The first also has `needs`: what the test needs beyond plain fetch.
"""

from __future__ import annotations

import csv
import os
import re
from pathlib import Path

from a64patch.errors import ScopeError
from a64patch.proof.arm_now import ArmNow
from a64patch.proof.esop2020 import Esop2020
from a64patch.proof.litmus import parse
from a64patch.proof.traces import behaviours
from tests.support import ROOT

FOLDER = Path(os.environ.get("A64PATCH_LITMUS") or ROOT.parent / "shared" / "litmus")

DIFFERENT = {
    # Without shareability domains an NSH barrier is taken to order nothing; herd takes it for a full one.
    "esop2020-herd/MP.RF+dc-dsb-ic-dsbnsh+ctrl-isb.litmus",
}
"""Where we allow what the list forbids."""

WEAKER = (
    # A DMB now orders a DC before a later store or DC.
    "ISA2.F+dc-dmb+dsb-ic-dsb+ctrl-isb",
    "MP.RF+dc.cvau-dmb.ish+",
    "MP.FF+dc.cvau-dmb.ish+",
    # A control or pick dependency now orders a DC or IC.
    "MP.RF+dmb.st+pickaddr-cachesyncisb",
    "G.MP.RF+dmb+ctrl-cachesync-isb",
)
"""Tests, by how their names begin, that Arm forbids today and the paper's model allowed."""

OUT_OF_SCOPE = re.compile(
    # Translation tables and tags.
    r"the variant '(vmsa|ets2|ets3|memtag|faulttonext)'|page tables and tags"
    # Accesses of mixed size, and an IC that is local to its CPU.
    r"|mixed sizes?|'ic\.iallu'"
)
"""The reasons for which a test of the second list may be refused."""


def is_allowed(expected: str) -> bool:
    """Required is said of a forall that no execution breaks."""
    return expected == "Allowed"


if (FOLDER / "verdicts-data.csv").is_file():

    def test_real_litmus_tests_of_data_agree() -> None:
        # The paper orders the store of a read-modify-write before an acquiring load of it in the same thread:
        # [range(rmw)]; rfi; [A|Q]. Today's rmw; lrs; [A|Q] orders only the load of the read-modify-write.
        arm, esop = ArmNow(), Esop2020(frozenset({"aob-rfi"}))
        wrong, stronger, reasons = [], [], []
        with open(FOLDER / "verdicts-data.csv", newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        for row in rows:
            try:
                test = parse((FOLDER / row["file"]).read_text(encoding="utf-8"), row["file"])
                known = behaviours(test.program)
                now, then = test.verdict(arm, known), test.verdict(esop, known)
            except ScopeError as error:
                reasons.append(str(error))
                continue
            if now.left_out or now.allowed != is_allowed(row["expected"]):
                wrong.append(row["file"])
            if now.allowed and not then.allowed:
                stronger.append(row["file"])
        assert wrong == []
        assert stronger == []
        assert [reason for reason in reasons if not OUT_OF_SCOPE.search(reason)] == []
        assert len(rows) - len(reasons) > len(rows) * 0.86


if (FOLDER / "verdicts.csv").is_file():

    def test_real_litmus_tests_agree() -> None:
        arm, esop = ArmNow(), Esop2020()
        wrong, weaker, in_scope, refused = [], [], 0, []
        with open(FOLDER / "verdicts.csv", newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        for row in rows:
            try:
                test = parse((FOLDER / row["file"]).read_text(encoding="utf-8"), row["file"])
                known = behaviours(test.program)
                now, then = test.verdict(arm, known).allowed, test.verdict(esop, known).allowed
            except ScopeError:
                refused.append(row)
                continue
            in_scope += 1
            if now != is_allowed(row["expected"]):
                wrong.append(row["file"])
            if now != then:
                assert then, f"{row['file']}: the older model forbids what Arm allows today"
                weaker.append(Path(row["file"]).name)
        assert set(wrong) <= DIFFERENT
        assert [name for name in weaker if not name.startswith(WEAKER)] == []
        assert [row["file"] for row in refused if not row["needs"]] == []
        assert in_scope > len(rows) * 0.99

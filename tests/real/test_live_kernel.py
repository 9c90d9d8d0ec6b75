"""Patches of a running Linux on four CPUs that execute what is patched: its behaviour is old or new, never both."""

from __future__ import annotations

import itertools
import re
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from a64patch import open_target, patch_text, patch_text_nosync, patch_text_sync
from a64patch.a64.assembler import assemble
from a64patch.a64.generate import gen_nop
from a64patch.a64.words import from_bytes
from a64patch.cli.main import main
from a64patch.errors import A64PatchError, BusyError
from a64patch.patch.asmdiff import AsmDiff, parse, to_text
from a64patch.patch.journal import Entry, EntryState, Journal
from a64patch.patch.plan import fill, make_plan
from a64patch.patch.transaction import Outcome, apply_plan, recover, revert
from a64patch.targets.gdb import GdbTarget
from a64patch.targets.rsp import Connection
from a64patch.targets.section import Change
from tests.real.guest import CPUS, tells_what_it_halted
from tests.real.live import ALL_AT_ONCE, NOT_CLEARED, PID, UPTIME, Line, LiveGuest
from tests.real.places import Rewrite, draft
from tests.support import eventually, rounds

ROUNDS = rounds(1000, 50)
STEP = rounds(1, 4)
SITES = 1000
ENTRY = 4
"""Words of a function up to which it may have been left room for ftrace: a BTI, PACIASP, and two NOPs."""
EVERYTHING = ("pid", "uptime", "ram")
ACCEPTED = ("branch-into-site", "return-into-site")
"""What these patches mean to do: a call inside a site, and no search for branches into it."""

ACCEPT = [word for hazard in ACCEPTED for word in ("--accept", hazard)]

TWO_SITES = (PID, UPTIME)


@pytest.fixture
def journal() -> Iterator[Journal]:
    """In memory where that can be had: thousands of entries on a slow disk take a minute."""
    memory = Path("/dev/shm")
    with (
        tempfile.TemporaryDirectory(prefix="a64patch-", dir=memory if memory.is_dir() else None) as directory,
        Journal(Path(directory) / "journal") as opened,
    ):
        yield opened


def open_live(live: LiveGuest, location: str = "") -> GdbTarget:
    target = open_target(location or live.gdb, symbols=live.names)
    assert isinstance(target, GdbTarget)
    return target


def words_at(target: GdbTarget, changes: tuple[Change, ...]) -> list[int]:
    return from_bytes(b"".join(target.read_many([(change.address, 4) for change in changes])))


def filled(target: GdbTarget, *rewrites: Rewrite) -> AsmDiff:
    return fill(parse(draft(target, "Change what functions say", *rewrites)), target)


def test_from_the_command_line(
    live: LiveGuest, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A function of the kernel proper, a system call and a module, in one patch, with the names of a saved kallsyms."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "kallsyms").write_text(live.listing)
    with open_live(live) as target:
        (tmp_path / "draft").write_text(draft(target, "Change what three functions say", *ALL_AT_ONCE))
    patch, names = tmp_path / "all.patch", ["--symbols", str(tmp_path / "kallsyms")]

    def a64patch(*words: str | Path) -> str:
        assert main([*map(str, words)]) == 0, capsys.readouterr()
        return capsys.readouterr().out

    patch.write_text(a64patch("fmt", tmp_path / "draft", live.gdb, *names))
    assert "????????" not in patch.read_text()
    with live.working(*EVERYTHING):
        said = a64patch("apply", patch, live.gdb, *names, *ACCEPT)
        assert "8 words written; stop: 8 words are not replaced at once" in said
        assert f"{CPUS} CPUs stopped for" in said
        live.progress(new=True)
        assert live.run("cat /proc/uptime").split()[0].endswith(".1234")
        assert live.run_bytes("dd if=/dev/ram0 bs=4096 count=1 iflag=direct 2>/dev/null") == b"\xa5" * 4096
        assert a64patch("status", patch, live.gdb, *names).count("  applied\n") == 3
        assert a64patch("revert", "1", *names).startswith("reverted")
        live.progress()
        assert not live.run("cat /proc/uptime").split()[0].endswith(".1234")
        assert live.run_bytes("dd if=/dev/ram0 bs=4096 count=1 iflag=direct 2>/dev/null") == bytes(4096)


def test_many_rounds(live: LiveGuest, journal: Journal) -> None:
    """Each result that any CPU got meanwhile is entirely old or entirely new."""
    busy = 0

    def insist(attempt: object, *arguments: object, **options: object) -> Outcome:
        nonlocal busy
        for _ in range(100):
            try:
                outcome = attempt(*arguments, **options)  # type: ignore[operator]
            except BusyError:
                busy += 1
                continue
            assert isinstance(outcome, Outcome)
            return outcome
        raise AssertionError("always busy")

    with open_live(live) as target, live.working(*EVERYTHING):
        plan = make_plan(filled(target, *ALL_AT_ONCE), target)
        assert plan.method == "stop"
        retries = 0
        for _ in range(ROUNDS):
            applied = insist(apply_plan, plan, target, journal, accept=ACCEPTED)
            reverted = insist(revert, applied.entry, target, journal)
            retries += applied.result.retries + reverted.result.retries
        counts = live.counts()
    for kind in EVERYTHING:
        assert counts[kind].old > ROUNDS / 2, counts
        assert counts[kind].new > ROUNDS / 10, counts
    print(f"{ROUNDS} rounds, {busy} BusyErrors, {retries} retries; {counts}")


def test_words_that_cpus_stand_in(live: LiveGuest, journal: Journal) -> None:
    """BusyError and nothing changed, or done at another moment: half of a page more or less would be seen."""
    number = 0
    with open_live(live) as target:
        plan = make_plan(filled(target, NOT_CLEARED), target)
        old, new = ([getattr(change, which) for change in plan.changes] for which in ("old", "new"))
        inside = target.symbols.describe(plan.changes[1].address)
        with (
            live.working("busy"),
            pytest.raises(BusyError, match=rf"CPU \d (will return to|stands at) {re.escape(inside)}"),
        ):
            apply_plan(plan, target, journal, accept=ACCEPTED)
        assert words_at(target, plan.changes) == old
        busy = done = 0
        with live.working("zero"):
            while done < 20:
                standing = old if done % 2 == 0 else new
                try:
                    if done % 2:
                        revert(number, target, journal)
                    else:
                        number = apply_plan(plan, target, journal, accept=ACCEPTED).entry
                    done += 1
                except BusyError:
                    busy += 1
                    assert words_at(target, plan.changes) == standing
            counts = live.counts()["zero"]
    assert counts.old
    assert counts.new
    print(f"{done} patches and {busy} BusyErrors while CPUs stood there; {counts}")


def has_stopped(connection: Connection) -> bool:
    connection.look()
    return bool(connection.stops)


def test_a_cpu_that_is_halted_at_a_context_word(live: LiveGuest) -> None:
    """It has executed the word before, and would execute the one behind: nothing is written while it stands there."""
    with open_live(live) as target, live.working("uptime"):
        before, context, behind = (target.symbols["uptime_proc_show"] + 4 * number for number in (9, 10, 11))
        olds = from_bytes(target.read(before, 12))
        connection = target._line.connection
        with target.stop():
            assert connection.ask(b"Z1,%x,4" % context) == b"OK"
            # Until one of the CPUs has come to the hardware breakpoint.
            connection.resume(target._line.stub.resume)
            assert eventually(lambda: has_stopped(connection))
            assert connection.ask(b"z1,%x,4" % context) == b"OK"
            with target.stop() as stopped:
                assert context in [state.pc for state in stopped.states()]
            with pytest.raises(BusyError, match=r"CPU \d stands at uptime_proc_show\+0x28, inside the words"):
                patch_text_sync(target, [before, behind], [gen_nop(), gen_nop()])
            assert from_bytes(target.read(before, 12)) == olds
        # Once it goes on there is a moment at which nobody is inside.
        assert patch_text_sync(target, [before, behind], [olds[0], olds[2]], retry=60).method == "stop"


def test_one_word_without_a_stop(live: LiveGuest) -> None:
    """NOP to a branch over the next instruction and back, which may race: not told at all, and told to each CPU."""
    with open_live(live) as target, live.working(*EVERYTHING):
        place = target.symbols["uptime_proc_show"] + 4
        nop, branch = gen_nop(), assemble("b .+4")[0]
        for _ in range(25):
            assert patch_text(target, [place], [branch], expected=[nop]).method == "kick"
            assert patch_text_nosync(target, place, nop, expected=branch).method == "nosync"
        live.progress()


def nops_at_entries(live: LiveGuest, target: GdbTarget) -> dict[int, int]:
    """The addresses of SITES NOPs, each a site of its own, all over the kernel's text, with the words behind them.

    They are among the first words of functions, where ftrace leaves them for itself. CPUs execute many of them, and
    none is a literal. A `b .+4` does there what the NOP does.
    """
    first, last = (live.names[name] for name in ("_stext", "_etext"))
    starts = sorted({symbol.address for symbol in live.names.ascending() if first <= symbol.address < last})
    starts = starts[:: len(starts) // (3 * SITES)]
    found: dict[int, int] = {}
    free = first
    for start, data in zip(starts, target.read_many([(start, 4 * ENTRY + 4) for start in starts]), strict=True):
        words = from_bytes(data)
        place = next((start + 4 * at for at in range(ENTRY) if words[at] == gen_nop()), 0)
        if place >= free and len(found) < SITES:
            found[place] = words[(place - start) // 4 + 1]
            free = place + 4 * 10
    assert len(found) == SITES
    return found


def test_a_thousand_words_with_one_kick(live: LiveGuest, journal: Journal) -> None:
    """As many sites of one word, as when a static key is turned: each is written, then all CPUs are told once."""
    nop, branch = gen_nop(), assemble("b .+4")[0]
    with Line(live.gdb) as line, open_live(live, line.location) as target, live.working(*EVERYTHING):
        found = nops_at_entries(live, target)
        hunks = [f"@@ {at:#x} @@\n-{nop:08x}\n+{branch:08x}\n {behind:08x}\n" for at, behind in found.items()]
        plan = make_plan(parse("\n".join(["Turn a key", "", *hunks])), target)
        assert [(site.start, site.end) for site in plan.sites] == [(at, at + 4) for at in found]
        line.heal()
        applied = apply_plan(plan, target, journal)
        require_one_kick(target, applied, branch, found, line.sent())
        assert words_at(target, plan.changes) == [branch] * SITES
        live.progress()
        line.heal()
        require_one_kick(target, revert(applied.entry, target, journal), nop, found, line.sent())
        assert words_at(target, plan.changes) == [nop] * SITES
    assert live.run("echo alive") == "alive\n"


def require_one_kick(
    target: GdbTarget, outcome: Outcome, word: int, places: Collection[int], sent: Sequence[bytes]
) -> None:
    """By what it says and by the packets that were sent."""
    assert "kick" in outcome.result.method
    assert not outcome.result.cpus, "no CPU was stopped"
    writes = [number for number, packet in enumerate(sent) if packet.startswith((b"M", b"X"))]
    data = word.to_bytes(4, "little").hex().encode()
    assert sorted(sent[number] for number in writes) == sorted(b"M%x,4:%s" % (place, data) for place in places)
    assert sent[writes[-1] + 1] == target._line.stub.resume, (
        "the machine runs before the words are read back: it is no stop"
    )
    assert not [packet for packet in sent if packet.startswith((b"g", b"p"))], "no CPU was asked for a register"
    assert sent.count(b"vMustReplyEmpty") == 1, "what a kick says while the machine is halted"


@dataclass
class Cutting:
    """Patches over a line that is cut; what became of them."""

    live: LiveGuest
    line: Line
    journal: Journal
    halted: bool
    outcomes: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        # A newer QEMU does not tell that the machine was halted before we came.
        self.keep = "&leave=halted" if self.halted and not tells_what_it_halted() else ""
        with self._open() as target:
            self.plan = make_plan(filled(target, *TWO_SITES), target)
        self.old, self.new = ([getattr(change, name) for change in self.plan.changes] for name in ("old", "new"))

    def _open(self, leave: str = "") -> GdbTarget:
        return open_live(self.live, f"{self.line.location}?timeout=60{leave or self.keep}")

    def cut(self, direction: Literal["there", "back"], number: int, *, for_good: bool) -> bool:
        """Apply, be cut, recover, and put back; False when the patch was done before packet `number`."""
        case = f"{direction} {number} {'for good' if for_good else ''}"
        before = len(self.journal.entries())
        error: A64PatchError | None = None
        applied = False
        try:
            with self._open() as target:
                self.line.cut_at(direction, number, for_good=for_good)
                apply_plan(self.plan, target, self.journal, accept=ACCEPTED)
                applied = True
        except A64PatchError as failed:
            error = failed
        was_cut = self.line.was_cut
        self.line.heal()
        entry = self.journal.entries()[-1] if len(self.journal.entries()) > before else None
        self._require_truth(case, entry, applied=applied, error=error)
        leave = "" if self.halted else "&leave=running"
        if for_good or self.halted:
            for found in recover(self.journal, lambda entry: self._open(leave)):
                assert found.state in (EntryState.APPLIED, EntryState.UNDONE), (case, found)
            self._open(leave).close()
        entry = self.journal.entry(entry.id) if entry else None
        assert eventually(lambda: self.live.runs() != self.halted), (case, error)
        with open_live(self.live, f"{self.live.gdb}?timeout=60{self.keep}") as target:
            words = words_at(target, self.plan.changes)
        assert words in (self.old, self.new), (case, error)
        state = entry.state if entry else EntryState.UNDONE
        assert state is (EntryState.APPLIED if words == self.new else EntryState.UNDONE), (case, error)
        if entry and words == self.new:
            with self._open() as target:
                revert(entry.id, target, self.journal)
        self.outcomes[f"{type(error).__name__ if error else 'no error'}, {state.value}"] += 1
        return was_cut

    def _require_truth(self, case: str, entry: Entry | None, *, applied: bool, error: A64PatchError | None) -> None:
        """Before anybody cleans up, the journal says no more than what stands."""
        if applied:
            assert entry is not None
            assert entry.state is EntryState.APPLIED, (case, error)
        elif entry is not None:
            assert entry.state is not EntryState.APPLIED, (case, error)
            with open_live(self.live, f"{self.live.gdb}?leave=halted") as target:
                words = words_at(target, self.plan.changes)
            if not (self.halted or entry.state is EntryState.PARTIAL):
                with open_live(self.live, f"{self.live.gdb}?leave=running"):
                    pass
            if entry.state is EntryState.UNDONE:
                assert words == self.old, (case, error)
            assert all(word in pair for word, *pair in zip(words, self.old, self.new, strict=True)), (case, error)


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize("halted", [False, True])
def test_the_connection_cut_at_every_packet(live: LiveGuest, journal: Journal, halted: bool) -> None:
    """Each packet of a patch, in both directions, with a line that comes back and one that does not.

    Afterwards all words are old or all are new, at once or after `recover`; the journal tells which; the machine runs
    if it ran before, and is halted if it was halted.
    """
    with Line(live.gdb) as line:
        try:
            cutting = Cutting(live, line, journal, halted)
            if halted:
                open_live(live, f"{live.gdb}?leave=halted").close()
            cuts = 0
            for direction, for_good in itertools.product(("there", "back"), (False, True)):
                # With A64PATCH_THOROUGH=1 each packet, on a line that comes back; else each fourth. Fewer where the
                # line is cut for good, which takes its time, and on a machine that is halted.
                step = 5 if halted else 3 * STEP if for_good else STEP
                for number in range(1, 1000, step):
                    if not cutting.cut(direction, number, for_good=for_good):  # type: ignore[arg-type]
                        break
                    cuts += 1
        finally:
            with open_target(f"{live.gdb}?leave=running"):
                pass
    assert cuts > (20 if halted else 100 // STEP)
    assert len(cutting.outcomes) > 1
    assert len(live.run("cat /proc/uptime").split()) == 2
    print(f"{cuts} cuts: {dict(cutting.outcomes)}")


@pytest.mark.usefixtures("short_pauses")
def test_the_stub_killed(
    live: LiveGuest, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of writing: exit status 3, and the journal says of each word what is known of it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    patch = tmp_path / "two.patch"
    with open_live(live) as target:
        patch.write_text(to_text(filled(target, *TWO_SITES)))
    with Line(live.gdb) as line:
        line.cut_at("there", 2, kind=b"M", for_good=True, victim=live.pid)
        assert main(["apply", str(patch), line.location, "--symbols", "kallsyms", *ACCEPT]) == 3, capsys.readouterr()
        said = capsys.readouterr().err
        assert "5 of 5 words could not be put back" in said
        assert main(["log", "1"]) == 0
        told = capsys.readouterr().out
        assert told.count("unknown") == 5, told
        assert main(["recover"]) == 3, "nobody answers there any more"
        capsys.readouterr()
        assert main(["recover", "--forget", "1"]) == 0

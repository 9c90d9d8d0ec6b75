"""The memory model with instruction fetch of ESOP 2020 (Simner et al., figure 1), with IDC and DIC added.

Read on: arm_now.py for the current model, which forbids a little more; search.py uses both.

R and W are explicit loads and stores, M is either, F is a fetch (IF in the paper), CSE is a context synchronisation
event (ISB in the paper). Fetches of unmodified words are left out; the relations here include the order through them.
Sources: DOI 10.1007/978-3-030-44914-8_23; `aarch64_ifetch.cat` of rems-project (2024) for IDC and DIC; arXiv
2412.15140 for exceptions.
"""

from __future__ import annotations

from collections.abc import Iterator

from a64patch.proof.execution import Execution
from a64patch.proof.model import Model, Named
from a64patch.proof.relations import Edges, ThreadOrder, bits


def fob(t: ThreadOrder) -> Edges:
    """[F]; fpo; [F]  |  [F]; fe  |  [CSE]; fe^-1; fpo"""
    yield from t.ordered(t.F, t.all)
    yield from t.ordered(t.cse, t.all)


def dob(t: ThreadOrder) -> Edges:
    """addr | data | ctrl; [W] | (ctrl | (addr; po)); [CSE] | addr; po; [W]"""
    yield from t.depends("addr", t.M | t.DC | t.IC)
    yield from t.depends("data", t.W)
    yield from t.depends("ctrl", t.W | t.cse)
    yield from t.after_dependent("addr", t.M, t.W | t.cse)


def aob(t: ThreadOrder) -> Edges:
    """rmw"""
    return t.rmw()


def bob(t: ThreadOrder) -> Edges:
    """Barriers, acquire and release.

    [M]; po; [dmb.full]  |  [dmb.full]; po; [M]  |  [dmb.full]; po; [DC]
    | [R & returns]; po; [dmb.ld]; po; [M]  |  [W]; po; [dmb.st]; po; [W]
    | [L]; po; [A]  |  [A|Q]; po; [M]  |  [M]; po; [L]
    """
    full = t.barrier("DMB", "sy") | t.barrier("DSB", "sy")
    yield from t.ordered(t.M, full)
    yield from t.ordered(full, t.M | t.DC)
    yield from t.through(t.loads, t.barrier("DMB", "ld") | t.barrier("DSB", "ld"), t.M)
    yield from t.through(t.W, t.barrier("DMB", "st") | t.barrier("DSB", "st"), t.W)
    yield from t.ordered(t.L, t.A)
    yield from t.ordered(t.A | t.Q, t.M)
    yield from t.ordered(t.M, t.L)


def dsb_ob(t: ThreadOrder) -> Edges:
    """[M|barrier|DC|IC]; po; [dsb]  |  [dsb]; po; [M|barrier|DC|IC|SGI]

    A dsb.ld waits only for loads, a dsb.st only for stores.
    """
    everything = t.all & ~t.F
    dsb = t.barrier("DSB", "sy")
    yield from t.ordered(everything, dsb)
    yield from t.ordered(dsb, everything)
    yield from t.through(t.loads, t.barrier("DSB", "ld"), everything)
    yield from t.through(t.W, t.barrier("DSB", "st"), everything)


def cob(t: ThreadOrder) -> Edges:
    """[M]; (po & same line); [DC]  |  [DC]; (po & same line); [DC]"""
    return t.same_line(t.M | t.DC, t.DC)


def irq_ob(t: ThreadOrder) -> Edges:
    """[interrupt taken]; po"""
    return t.ordered(t.irq, t.all)


class Esop2020(Model):
    """The axioms of the paper: internal, external and atomic, over ob = (obs | fob | dob | aob | bob | cob)+.

    wco is the order of the stores, DCs and ICs of a line. Only the pairs whose order has consequences are chosen: a
    publisher (DC, or IC with IDC=1) with a store, and a DC with an IC. Every other pair may have any order that ob
    allows, and ob always allows one.
    """

    name = "esop"
    LOCAL = {  # noqa: RUF012
        "fob": fob,
        "dob": dob,
        "aob": aob,
        "bob": bob,
        "dsb-ob": dsb_ob,
        "cob": cob,
        "irq-ob": irq_ob,
    }
    GLOBAL = frozenset({"rfe", "fr", "irf", "wco", "ifr;iseq", "dob-rfi", "aob-rfi", "sgi"})
    COHERENCE = frozenset({"coWW", "coRW1", "coWR", "coRR", "coRW2", "atomic"})

    def coherence_edges(self, x: Execution, address: int) -> Iterator[Named]:
        """wco extends co"""
        later = 0
        for write in reversed(x.co[address]):
            if later:
                yield "wco", write, later
            later |= 1 << write

    def reads_edges(self, x: Execution, read: int) -> Iterator[Named]:
        """rfe | fr | irf; (addr|data); rfi; [range(rmw)]; rfi; [A|Q]; with IDC and DIC, ifr"""
        source, missed = x.rf[read], x.missed[read]
        if x.events[read].kind == "F":
            if source >= 0:
                yield "irf", source, 1 << read
            if missed and x.program.dic and x.program.idc:
                yield "ifr;iseq", read, missed
            return
        if missed:
            yield "fr", read, missed
        if source < 0:
            return
        if x.thread[source] != x.thread[read]:
            yield "rfe", source, 1 << read
            return
        event, first = x.events[source], x.first[x.thread[source]]
        for load in bits(event.addr | event.data):
            yield "dob-rfi", first + load, 1 << read
        if event.rmw >= 0 and x.events[read].order in ("A", "Q"):
            yield "aob-rfi", source, 1 << read

    def questions(self, x: Execution, complete: bool) -> list[tuple[int, int]]:
        """Each DC (or, with IDC=1, each IC) with each store, and each DC with each IC, of the same line."""
        if x.program.dic and x.program.idc and not complete:
            return []
        missed = 0
        for fetch in x.fetches:
            missed |= x.missed[fetch]
        if not missed and not complete:
            return []
        lines = {x.program.line_of(x.events[fetch].address) for fetch in x.fetches}
        publishers = x.ics if x.program.idc else x.dcs
        pairs = [
            (write, one)
            for stores in x.writes.values()
            for write in stores
            if missed >> write & 1 or (complete and x.program.line_of(x.events[write].address) in lines)
            for one in publishers
            if x.same_line(one, write)
        ]
        if not x.program.idc and not x.program.dic:
            pairs += [
                (dc, ic)
                for dc in x.dcs
                if x.program.line_of(x.events[dc].address) in lines
                for ic in x.ics
                if x.same_line(dc, ic)
            ]
        return pairs

    def order_edges(self, x: Execution, first: int, second: int) -> Iterator[Named]:
        """wco | ifr; iseq, where iseq = [W]; (wco & same line); [DC]; (wco & same line); [IC]"""
        yield "wco", first, 1 << second
        kinds = x.events[first].kind, x.events[second].kind
        if x.program.dic and x.program.idc:
            return
        if kinds == ("W", "IC") or (kinds == ("W", "DC") and x.program.dic):
            published = [(first, 1 << second)]
        elif kinds == ("W", "DC"):
            published = [(first, x.chosen.get(second, 0) & x.ic_set)]
        elif kinds == ("DC", "IC"):
            published = [(write, 1 << second) for write in bits(x.chosen_before.get(first, 0) & ~x.ic_set)]
        else:
            return
        for write, last in published:
            if last:
                for fetch in x.fetches:
                    if x.missed[fetch] >> write & 1:
                        yield "ifr;iseq", fetch, last

    def fetch_is_past(self, x: Execution, fetch: int, write: int) -> bool:
        """iseq; ob"""
        if write < 0:
            return False
        if x.program.dic and x.program.idc:
            return x.before(write, fetch)
        for last in bits(x.chosen.get(write, 0)):
            if x.program.idc or x.program.dic:
                if x.before(last, fetch):
                    return True
            elif any(x.before(ic, fetch) for ic in bits(x.chosen.get(last, 0) & x.ic_set)):
                return True
        return False

"""Arm's current memory model with instruction fetch: the relations of herdtools7's aarch64.cat that proofs need.

Read on: esop2020.py for the older and weaker model; search.py uses both.

R and W are explicit loads and stores, M is either, F is a fetch of a modified word, CSE is a context synchronisation
event (ISB, exception entry, exception return). `po` is program order. Each docstring has its relation's text.
Sources: Arm ARM DDI 0487 B2.3 and B2.2.5, herdtools7 `herd/libdir/aarch64*.cat`; for interrupts, "Relaxed exception
semantics for Arm-A" (arXiv 2412.15140).
"""

from __future__ import annotations

from collections.abc import Iterator

from a64patch.proof.execution import Execution
from a64patch.proof.model import Model, Named
from a64patch.proof.relations import Edges, ThreadOrder, bits, closed, compose


def f_ob(t: ThreadOrder) -> Edges:
    """[F]; po; [~F]: a fetch is before the later effects of its thread. Only fetches may overtake fetches."""
    return t.ordered(t.F, t.M | t.DC | t.IC | t.SGI)


def po_scl_ob(t: ThreadOrder) -> Edges:
    """[M]; (po & same line); [DC]  |  [DC]; (po & same line); [M]  |  [DC]; (po & same line); [DC]"""
    yield from t.same_line(t.M, t.DC)
    yield from t.same_line(t.DC, t.M | t.DC)


def dsb_ob(t: ThreadOrder) -> Edges:
    """[M|DC|IC]; po; [dsb.full]; po; [~F]  |  [R & returns]; po; [dsb.ld]; po; [~F]  |  [W]; po; [dsb.st]; po; [~F]"""
    yield from t.through(t.M | t.DC | t.IC, t.barrier("DSB", "sy"), t.all & ~t.F)
    yield from t.through(t.loads, t.barrier("DSB", "ld"), t.all & ~t.F)
    yield from t.through(t.W, t.barrier("DSB", "st"), t.all & ~t.F)


def cse_ob(t: ThreadOrder) -> Edges:
    """[R]; (ctrl | pick-ctrl); [CSE]; po  |  [R]; (addr | pick-addr); [M]; po; [CSE]; po  |  DSB-ob; [CSE]; po

    Only this relation orders a fetch after another event of its own thread.
    """
    synchronised = list(t.ordered(t.cse, t.all))
    yield from compose(t.depends("ctrl", t.cse), synchronised)
    yield from compose(t.depends("pick_ctrl", t.cse), synchronised)
    yield from compose(t.after_dependent("addr", t.M, t.cse), synchronised)
    yield from compose(t.after_dependent("pick_addr", t.M, t.cse), synchronised)
    yield from compose(dsb_ob(t), synchronised)


def irq_ob(t: ThreadOrder) -> Edges:
    """[interrupt taken]; po: the handler comes after the interrupt that it handles."""
    return t.ordered(t.irq, t.all)


def lws(t: ThreadOrder) -> Edges:
    """[M]; (po & same location); [W]"""
    return t.same_location(t.M, t.W)


def dob(t: ThreadOrder) -> Edges:
    """addr | data | ctrl; [W|DC|IC] | addr; [M]; po; [W] | (addr|data); [M]; lmrs; [R]"""
    yield from t.depends("addr", t.M | t.DC | t.IC)
    yield from t.depends("data", t.W)
    yield from t.depends("ctrl", t.W | t.DC | t.IC)
    yield from t.after_dependent("addr", t.M, t.W)
    forwarded = list(t.local_reads(t.W))
    yield from compose(t.depends("addr", t.W), forwarded)
    yield from compose(t.depends("data", t.W), forwarded)


def pob(t: ThreadOrder) -> Edges:
    """pick-addr; [W|DC|IC] | pick-data | pick-ctrl; [W|DC|IC] | pick-addr; [M]; po; [W]"""
    yield from t.depends("pick_addr", t.W | t.DC | t.IC)
    yield from t.depends("pick_data", t.W)
    yield from t.depends("pick_ctrl", t.W | t.DC | t.IC)
    yield from t.after_dependent("pick_addr", t.M, t.W)


def aob(t: ThreadOrder) -> Edges:
    """rmw | rmw; lmrs; [A|Q]"""
    pairs = list(t.rmw())
    yield from pairs
    for index, targets in compose(pairs, t.local_reads(t.W)):
        yield index, targets & (t.A | t.Q)


def bob(t: ThreadOrder) -> Edges:
    """The order from barriers, acquires and releases. Nothing here orders an IC or a fetch.

    [M]; po; [dmb.full]; po; [M]  |  [M]; po; [dmb.full]; po; [DC]  |  [DC]; po; [dmb.full]; po; [M|DC]
    | [R & returns]; po; [dmb.ld]; po; [M]  |  [W]; po; [dmb.st]; po; [W]
    | [L]; po; [A]  |  [A|Q]; po; [M]  |  [M]; po; [L]  |  [A]; amo; [L]; po; [M]

    amo is rmw of one instruction: LDAXR and STLXR are no full barrier.
    """
    yield from t.through(t.M | t.DC, t.barrier("DMB", "sy"), t.M | t.DC)
    yield from t.through(t.loads, t.barrier("DMB", "ld"), t.M)
    yield from t.through(t.W, t.barrier("DMB", "st"), t.W)
    yield from t.ordered(t.L, t.A)
    yield from t.ordered(t.A | t.Q, t.M)
    yield from t.ordered(t.M, t.L)
    for read, write in t.rmw():
        amo = t.events[read].step == t.events[write.bit_length() - 1].step
        if amo and t.A >> read & 1 and t.L & write:
            yield from t.ordered(write, t.M)


def pick_lob(t: ThreadOrder) -> Edges:
    """pick-basic-dep; lob; [W], where lob is (lws | dob | pob | aob | bob)+

    pick-basic-dep is [R]; (dtrm | iico_ctrl)+, and dtrm includes lrs (here lmrs). So the dependency also goes through
    memory: from a store that depends on the pick to a later load of this store in the same thread.
    """
    picks = [*t.depends("pick_addr", t.M), *t.depends("pick_data", t.W)]
    if not picks:
        return
    picks += compose(picks, list(t.local_reads(t.W)))
    rows = closed(t.size, [edge for relation in (lws, dob, pob, aob, bob) for edge in relation(t)])
    yield from compose(picks, [(index, row & t.W) for index, row in enumerate(rows)])


class ArmNow(Model):
    """Arm's current axioms: ob is irreflexive, and explicit accesses are coherent within a thread."""

    name = "arm"
    LOCAL = {  # noqa: RUF012
        "F-ob": f_ob,
        "po-scl-ob": po_scl_ob,
        "DSB-ob": dsb_ob,
        "CSE-ob": cse_ob,
        "irq-ob": irq_ob,
        "lws": lws,
        "dob": dob,
        "pob": pob,
        "aob": aob,
        "bob": bob,
        "pick-lob": pick_lob,
    }
    GLOBAL = frozenset({"rfe", "ca", "haz-ob", "instr-rf", "instr-ca", "DC-after", "IC-after", "IC-ca", "IC-ob", "sgi"})

    def coherence_edges(self, x: Execution, address: int) -> Iterator[Named]:
        """co & ext"""
        later = 0
        for write in reversed(x.co[address]):
            if targets := x.external(write, later):
                yield "ca", write, targets
            later |= 1 << write

    def reads_edges(self, x: Execution, read: int) -> Iterator[Named]:
        """For loads: rf & ext | fr & ext | [R]; (po & same location); [R]; (fr & ext). For fetches: rf, and by DIC."""
        source, missed = x.rf[read], x.missed[read]
        if x.events[read].kind == "R":
            if source >= 0 and x.thread[source] != x.thread[read]:
                yield "rfe", source, 1 << read
            newer = x.external(read, missed)
            if newer:
                yield "ca", read, newer
                for earlier in x.earlier(read, "R", same_location=True):
                    yield "haz-ob", earlier, newer
            return
        if source >= 0:
            yield "instr-rf", source, 1 << read
        if missed and x.program.dic:
            # DIC=1: no IC is needed. So a fetch that misses a store is before the store, and so are earlier fetches.
            if x.program.idc:
                yield "instr-ca", read, missed
            for earlier in x.earlier(read, "F"):
                yield "IC-ob", earlier, missed

    def questions(self, x: Execution, complete: bool) -> list[tuple[int, int]]:
        """Each DC with each store, and each completed IC with each fetch, of the same line."""
        if x.program.dic and not complete:
            return []
        invalidations = [ic for ic in x.ics if self._completes(x, ic)]
        missed = 0
        for fetch in x.fetches:
            missed |= x.missed[fetch]
        pairs = []
        if (invalidations and not x.program.idc) or complete:
            for stores in x.writes.values():
                for write in stores:
                    if missed >> write & 1 or complete:
                        pairs += [(write, dc) for dc in x.dcs if x.same_line(dc, write)]
        for fetch in x.fetches:
            if x.missed[fetch] or complete or x.earlier(fetch, "F"):
                pairs += [(ic, fetch) for ic in invalidations if x.same_line(ic, fetch)]
        return pairs

    def order_edges(self, x: Execution, first: int, second: int) -> Iterator[Named]:
        """DC-after | IC-after | IC-ca | [F]; po; [F']; IC-after; [IC]; (DSB-ob | CSE-ob)"""
        kinds = x.events[first].kind, x.events[second].kind
        yield "DC-after" if "DC" in kinds else "IC-after", first, 1 << second
        if x.program.dic:
            return
        if kinds == ("F", "IC"):
            earlier = x.earlier(first, "F")
            if earlier and (completed := self._after_completion(x, second)):
                for fetch in earlier:
                    yield "IC-ob", fetch, completed
        elif kinds == ("IC", "F"):
            # IC before F, and F misses W: W was not yet published when the IC took effect.
            if x.program.idc:
                if x.missed[second]:
                    yield "IC-ca", first, x.missed[second]
            else:
                for write in bits(x.missed[second]):
                    if cleans := x.chosen.get(write, 0):
                        yield "IC-ca", first, cleans
        elif kinds == ("W", "DC") and not x.program.idc:
            for fetch in x.fetches:
                if x.missed[fetch] >> first & 1:
                    for ic in bits(x.chosen_before.get(fetch, 0)):
                        yield "IC-ca", ic, 1 << second

    def fetch_is_past(self, x: Execution, fetch: int, write: int) -> bool:
        """W; DC-after; [DC]; ob; [IC]; IC-after; [F], without DC when IDC=1 and without IC when DIC=1."""
        if write < 0:
            return False
        if x.program.dic:
            return x.before(write, fetch)
        invalidations = x.chosen_before.get(fetch, 0)
        if x.program.idc:
            return bool(x.succ[write] & invalidations)
        return any(x.succ[dc] & invalidations for dc in bits(x.chosen.get(write, 0)))

    @staticmethod
    def _completes(x: Execution, ic: int) -> bool:
        """Whether a full DSB follows the IC in its thread."""
        last = x.first[x.thread[ic]] + len(x.traces[x.thread[ic]].events)
        return any(x.events[index].kind == "DSB" and x.events[index].order == "sy" for index in range(ic, last))

    def _after_completion(self, x: Execution, ic: int) -> int:
        """[IC]; (DSB-ob | CSE-ob)"""
        thread = x.thread[ic]
        order = ThreadOrder(x.traces[thread], x.program)
        local = 1 << x.local(ic)
        targets = 0
        for _, found in order.through(local, order.barrier("DSB", "sy"), order.all & ~order.F):
            targets |= found
        for index in bits(targets & order.cse):
            targets |= order.after(index)
        return targets << x.first[thread]

"""The way of a code word from a store to its execution: four layers, each of which may lag behind the layer before.

Read on: cpu.py executes the words that a CPU has fetched by this model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

WORD = 4


def line_of(address: int, size: int) -> range:
    """The addresses of the words of the cache line that holds the address; `size` bytes, a power of two."""
    start = address & -size
    return range(start, start + size, WORD)


class _Word:
    """One code word whose layers differ. A layer's time is the number of the store from which its value came."""

    __slots__ = ("icache", "icache_time", "memory", "memory_time", "overdue", "pou", "pou_time", "view")

    def __init__(self, value: int, time: int, cpus: int) -> None:
        self.memory = self.pou = value
        self.memory_time = self.pou_time = time
        self.icache = [value] * cpus
        self.icache_time = [time] * cpus
        self.view = [value] * cpus
        self.overdue = [False] * cpus


class CacheModel:
    """The incoherent instruction side of several CPUs, as hostile as the Arm ARM allows (B2.2.5, D7.5).

    A code word passes through four layers:

    1. *memory*, the data side, coherent among all CPUs. `store` writes it.
    2. the *point of unification*. With CTR_EL0.IDC = 1 a store reaches it at once, with IDC = 0 by `clean` (DC CVAU).
    3. each CPU's *instruction cache*. With CTR_EL0.DIC = 1 it follows the point of unification. With DIC = 0 it keeps
       its value until `invalidate` (IC IVAU) or `invalidate_all` (IC IALLU, IC IALLUIS). The invalidation refills the
       cache at once, with the value of the point of unification at the moment when the instruction was issued.
    4. each CPU's *view*: the word that the CPU has fetched and will execute. `synchronise`, a context synchronisation
       event of the CPU, refreshes the view from the CPU's instruction cache.

    `clean` and `invalidate` take effect at the issuing CPU's next `barrier` (DSB), with the values of the moment when
    they were issued. So DC; DSB; IC; DSB; ISB is enough, and DC; IC; DSB; ISB is not.

    `advance` moves a word by chance, as when a line is evicted or a CPU fetches a word again unasked. A CPU that
    fetches one word anew also fetches every *overdue* word anew. With DIC = 0 an invalidation makes a word overdue,
    with DIC = 1 a barrier after its store, also `store_barrier`. Otherwise a CPU could execute a word stored after the
    barrier and then a word from before the barrier, which the architecture forbids (litmus test MP.FF+cachesync+fpo).

    No layer ever goes back to an older store. The model holds only words whose layers differ, so its cost depends on
    them and not on the size of the code. Where the architecture leaves a choice, this model makes one choice: a run
    proves nothing (see proof/). Addresses are bytes, values are words.
    """

    def __init__(
        self,
        cpus: int,
        changed: Callable[[int, int, int], None],
        *,
        line_sizes: Sequence[int] | None = None,
        idc: bool = False,
        dic: bool = False,
        broadcast: bool = True,
        coherent: bool = False,
    ) -> None:
        """Call `changed(cpu, address, word)` for every change of a view. `coherent`: every store changes all views.

        `line_sizes` are the bytes of a line of both caches, one power of two for each CPU; by default 64 for all.
        Without `broadcast`, invalidation reaches the issuing CPU only. DC CVAU acts on the point of unification, which
        all CPUs share.
        """
        self._cpus = cpus
        self._changed = changed
        self._line_sizes = line_sizes or [64] * cpus
        self._idc = idc
        self._dic = dic
        self._broadcast = broadcast
        self._coherent = coherent
        self._words: dict[int, _Word] = {}
        self._now = 0
        self._cleans: list[list[tuple[int, int, int]]] = [[] for _ in range(cpus)]
        self._refills: list[list[tuple[int, int, int, int]]] = [[] for _ in range(cpus)]

    @property
    def diverging(self) -> int:
        """The number of words whose layers differ."""
        return len(self._words)

    def layers(self, address: int) -> tuple[int, int, tuple[int, ...], tuple[int, ...]] | None:
        """Memory, point of unification, instruction caches and views of a word; None when they are all equal."""
        word = self._words.get(address)
        return None if word is None else (word.memory, word.pou, tuple(word.icache), tuple(word.view))

    def store(self, address: int, old: int, new: int) -> None:
        """The word in memory becomes `new`; before it was `old`. Writing the same value changes nothing."""
        if old == new:
            return
        if self._coherent:
            for cpu in range(self._cpus):
                self._changed(cpu, address, new)
            return
        word = self._words.get(address)
        if word is None:
            word = self._words[address] = _Word(old, self._now, self._cpus)
        self._now += 1
        word.memory, word.memory_time = new, self._now
        if self._idc:
            self._unify(word, new, self._now)
        self._forget_if_equal(address, word)

    def clean(self, cpu: int, address: int) -> None:
        """DC CVAU by this CPU of the line that holds the address. Takes effect at the CPU's next `barrier`.

        Any CPU's cache may hold what was stored, so the shortest line of all CPUs is cleaned.
        """
        for place in line_of(address, min(self._line_sizes)):
            word = self._words.get(place)
            if word is not None:
                self._cleans[cpu].append((place, word.memory, word.memory_time))

    def invalidate(self, cpu: int, address: int) -> None:
        """IC IVAU by this CPU. Each CPU that it reaches loses its own line that holds the address.

        Takes effect at the issuing CPU's next `barrier`.
        """
        for each in self._reached(cpu, self._broadcast):
            self._issue(cpu, each, line_of(address, self._line_sizes[each]))

    def invalidate_all(self, cpu: int, *, inner_shareable: bool) -> None:
        """IC IALLUIS (`inner_shareable`), or IC IALLU, which is always local. Takes effect at the next `barrier`."""
        for each in self._reached(cpu, inner_shareable and self._broadcast):
            self._issue(cpu, each, list(self._words))

    def barrier(self, cpu: int) -> None:
        """DSB: complete this CPU's maintenance, invalidations before cleans, which is the worst order allowed."""
        for each, place, value, time in self._refills[cpu]:
            word = self._words.get(place)
            if word is not None:
                if time > word.icache_time[each]:
                    word.icache[each], word.icache_time[each] = value, time
                word.overdue[each] = True
                self._forget_if_equal(place, word)
        self._refills[cpu].clear()
        for place, value, time in self._cleans[cpu]:
            word = self._words.get(place)
            if word is not None and time > word.pou_time:
                self._unify(word, value, time)
                self._forget_if_equal(place, word)
        self._cleans[cpu].clear()
        self.store_barrier(cpu)

    def store_barrier(self, cpu: int) -> None:
        """DSB for stores: those before it are done. It completes no maintenance, and with DIC = 1 none is needed."""
        if self._dic:
            for word in self._words.values():
                word.overdue = [True] * self._cpus

    def synchronise(self, cpu: int) -> None:
        """A context synchronisation event: the CPU now executes the words in its instruction cache."""
        for address, word in list(self._words.items()):
            self._fetch(cpu, address, word)

    def advance(self, cpu: int, random: Random) -> None:
        """By chance, move one word one layer on for this CPU; do nothing when no word can move.

        Words move one by one: of two words written together, a CPU may see either as new and the other as old.
        """
        moves = [
            (address, layer)
            for address, word in self._words.items()
            for layer, possible in enumerate(
                (
                    word.memory_time > word.pou_time,
                    word.pou_time > word.icache_time[cpu],
                    word.icache[cpu] != word.view[cpu],
                )
            )
            if possible
        ]
        if not moves:
            return
        address, layer = moves[int(random.random() * len(moves))]
        word = self._words[address]
        if layer == 0:
            self._unify(word, word.memory, word.memory_time)
        elif layer == 1:
            word.icache[cpu], word.icache_time[cpu] = word.pou, word.pou_time
        else:
            self._fetch(cpu, address, word)
            for other, overdue in [(place, each) for place, each in self._words.items() if each.overdue[cpu]]:
                self._fetch(cpu, other, overdue)
            return
        self._forget_if_equal(address, word)

    def _reached(self, cpu: int, everywhere: bool) -> range:
        return range(self._cpus) if everywhere else range(cpu, cpu + 1)

    def _issue(self, cpu: int, reached: int, places: range | list[int]) -> None:
        for place in places:
            word = self._words.get(place)
            if word is not None:
                self._refills[cpu].append((reached, place, word.pou, word.pou_time))

    def _unify(self, word: _Word, value: int, time: int) -> None:
        word.pou, word.pou_time = value, time
        if self._dic:
            word.icache = [value] * self._cpus
            word.icache_time = [time] * self._cpus

    def _fetch(self, cpu: int, address: int, word: _Word) -> None:
        value = word.icache[cpu]
        word.overdue[cpu] = False
        if word.view[cpu] != value:
            word.view[cpu] = value
            self._changed(cpu, address, value)
            self._forget_if_equal(address, word)

    def _forget_if_equal(self, address: int, word: _Word) -> None:
        value = word.memory
        if (
            word.pou == value
            and all(each == value for each in word.icache)
            and all(each == value for each in word.view)
        ):
            del self._words[address]

"""Names come from files and from memory, are moved to where the kernel is, and are refused when they are another's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from a64patch import open_target
from a64patch.a64.words import from_bytes
from a64patch.errors import FormatError, MappingError, RequestError, SymbolError
from a64patch.kernel.image import KernelImage
from a64patch.kernel.kallsyms import KernelSymbol
from a64patch.kernel.rewrites import HAZARD
from a64patch.kernel.symbols import LINKED_TO, attach, live_symbols, names_a_kernel, parse_listing, read_source
from a64patch.ranges import Ranges
from a64patch.targets.base import Build, Capabilities, CpuState, Identity, Rendezvous, Target
from a64patch.targets.modules import Module
from tests.kernel import kernels
from tests.kernel.kernels import BUILD_ID, FUNCTION, LINKED, TEXT_AT, Kernel, Named, build_kernel, call_each_other
from tests.support import assemble, link, rounds

SLIDE = 0x3A57_F760_0000
MODULE_AT = 0xFFFF_8000_0012_3000


class Machine(Target):
    """A machine that runs a kernel, moved by KASLR: what a stub shows of it. Its first page is not mapped."""

    def __init__(self, kernel: Kernel, slide: int = 0, pc: int | None = None) -> None:
        self.capabilities = Capabilities("machine", 1, True, True, True, True)
        start = kernel.linked + slide
        mapped = bytes(kernel.data[TEXT_AT:])
        self.memory = [(start + TEXT_AT, mapped + bytes(-len(mapped) % 0x10000))]
        self.pcs = [start + TEXT_AT + 0x100 if pc is None else pc]
        self.reads = 0

    def read(self, address: int, size: int) -> bytes:
        self.reads += 1
        for start, data in self.memory:
            if start <= address and address + size <= start + len(data):
                return data[address - start : address - start + size]
        raise MappingError(f"nothing is mapped at {address:#x}")

    @property
    def location(self) -> str:
        return "machine"

    def writable(self) -> Ranges | None:
        return self._may_write

    @contextmanager
    def stop(self) -> Iterator[Machine]:
        self.rendezvous = Rendezvous(())
        yield self

    def states(self) -> Sequence[CpuState]:
        return [CpuState(0, self.pcs.pop(0) if len(self.pcs) > 1 else self.pcs[0])]

    def write(self, address: int, data: bytes) -> None:
        raise NotImplementedError

    def publish(self, start: int, end: int) -> None:
        raise NotImplementedError

    def kick(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        pass

    def load_module(self, functions: int = 100) -> list[Named]:
        self.memory.append((MODULE_AT, call_each_other(functions, 9).ljust(0x2000, b"\0")))
        return [(MODULE_AT + FUNCTION * number, "t", f"module_{number}") for number in range(functions)]


def listing(symbols: Sequence[Named], slide: int = 0, module: str = "") -> str:
    owner = f"\t[{module}]" if module else ""
    return "".join(f"{address + slide:016x} {kind} {name}{owner}\n" for address, kind, name in symbols)


@pytest.mark.parametrize("slide", [0, SLIDE, -0x20_0000])
def test_system_map_is_moved_to_where_the_kernel_is(tmp_path: Path, slide: int) -> None:
    kernel = build_kernel()
    path = tmp_path / "System.map"
    path.write_text(listing(kernel.symbols))
    machine = Machine(kernel, slide)
    table = attach(machine, path)
    address, _, name = kernel.symbols[20]
    assert machine.symbols is table
    assert table[name] == address + slide
    assert table.find(name).size == FUNCTION
    [module] = machine.modules
    assert (module.base, module.code) == (slide, Ranges(((LINKED + TEXT_AT + slide, kernel.symbols[-1][0] + slide),)))
    assert machine.writable() is None  # a System.map knows of no modules, which are code as well
    # The list tells no build: the memory of the machine does.
    identity = machine.identity()
    assert (identity.build_id, identity.release) == (BUILD_ID.hex(), "Linux 6.6.6-test")


@pytest.mark.parametrize("behind", [0x10_0000, 0x480_0000])
def test_the_build_is_found_wherever_the_notes_lie(tmp_path: Path, behind: int) -> None:
    kernel = build_kernel()
    note = kernel.data.rindex(b"GNU\0" + BUILD_ID) - 12
    whole = bytes(kernel.data[note : note + 16 + len(BUILD_ID)])
    kernel.data[note : note + 16] = bytes(16)
    machine = Machine(kernel, SLIDE)
    start = machine.memory[0][0] + behind
    machine.memory.append((start, whole))
    names = [*kernel.symbols, (start - SLIDE, "R", "__start_notes"), (start - SLIDE + len(whole), "R", "__stop_notes")]
    path = tmp_path / "System.map"
    path.write_text(listing(names))
    attach(machine, path)
    assert machine.identity().build_id == BUILD_ID.hex()


@pytest.mark.parametrize("behind", [0, 0x28_0000])
def test_the_build_is_found_without_a_name_for_the_notes(tmp_path: Path, behind: int) -> None:
    """As in Debian's 5.10 and 6.1, whose notes lie some MiB behind the text."""
    kernel = build_kernel()
    note = kernel.data.rindex(b"GNU\0" + BUILD_ID) - 12
    whole = bytes(kernel.data[note:])
    kernel.data[note:] = bytes(behind) + whole
    path = tmp_path / "System.map"
    path.write_text(listing(kernel.symbols))
    machine = Machine(kernel, SLIDE)
    attach(machine, path)
    assert machine.identity().build_id == BUILD_ID.hex()


def test_a_file_of_another_build_is_refused_by_the_memory(tmp_path: Path) -> None:
    kernel = build_kernel()
    other = build_kernel()
    note = other.data.rindex(BUILD_ID)
    other.data[note : note + len(BUILD_ID)] = bytes(reversed(BUILD_ID))
    path = tmp_path / "Image"
    path.write_bytes(other.data)
    with pytest.raises(FormatError, match=f"its build id is {bytes(reversed(BUILD_ID)).hex()}, the kernel's"):
        attach(Machine(kernel, SLIDE), path)


@pytest.mark.parametrize(("data", "told"), [(bytes(range(16)), f" ptr_key={bytes(range(16)).hex()}"), (bytes(16), "")])
def test_each_boot_of_a_kernel_is_told_apart(tmp_path: Path, data: bytes, told: str) -> None:
    kernel = build_kernel()
    place = kernel.symbols[-1][0] + 0x100_0000
    path = tmp_path / "System.map"
    path.write_text(listing([*kernel.symbols, (place, "b", "ptr_key"), (place + 16, "b", "sysctl_bootid")]))
    machine = Machine(kernel, SLIDE)
    machine.memory.append((place + SLIDE, data))
    attach(machine, path)
    assert machine.identity().incarnation == f"_stext={LINKED + TEXT_AT + SLIDE:#x}{told}"


@pytest.mark.parametrize("layout", ["relative", "sequences", "tables first", "packed", "own place", "absolute last"])
def test_memory_without_any_file(layout: str) -> None:
    kernel = build_kernel(layout)
    slide = 0 if layout == "absolute last" else SLIDE
    if layout not in ("own place", "absolute last"):  # what the kernel does itself as it is moved
        kernel = move(kernel, layout, slide)
    machine = Machine(kernel, slide)
    table = attach(machine, "kallsyms")
    address, _, name = kernel.symbols[20]
    assert table[name] == address + (slide if layout == "own place" else 0)
    identity = machine.identity()
    assert (identity.build_id, identity.release) == (BUILD_ID.hex(), "Linux 6.6.6-test")
    assert len(live_symbols(machine)) == len(kernel.symbols)


def move(kernel: Kernel, layout: str, slide: int) -> Kernel:
    """A kernel whose base was moved when it booted."""
    base = kernel.symbols[0][0]
    place = kernel.data.rfind(base.to_bytes(8, "little"))
    kernel.data[place : place + 8] = (base + slide).to_bytes(8, "little")
    return Kernel(kernel.data, [(address + slide, *rest) for address, *rest in kernel.symbols], kernel.tables_at)  # type: ignore[misc]


def test_cpu_in_user_space_is_waited_for() -> None:
    kernel = move(build_kernel(), "relative", SLIDE)
    machine = Machine(kernel, SLIDE)
    machine.pcs = [0x400000, 0x400100, machine.pcs[0]]
    assert len(live_symbols(machine)) == len(kernel.symbols)


def test_a_cpu_in_a_module_does_not_make_the_search_long(monkeypatch: pytest.MonkeyPatch) -> None:
    # As in every kernel, the text ends at a multiple of 64 KiB.
    text = call_each_other(600)
    kernel = build_kernel(text=(text * (0x50_0000 // len(text) + 1))[:0x50_0000])
    machine = Machine(kernel)
    machine.load_module()
    machine.pcs = [MODULE_AT + 0x40, *machine.pcs]
    read = Machine.read
    long: list[int] = []

    def recorded(self: Machine, address: int, size: int) -> bytes:
        if size >= 0x1_0000:
            long.append(address)
        return read(self, address, size)

    monkeypatch.setattr(Machine, "read", recorded)
    assert len(live_symbols(machine)) == len(kernel.symbols)
    assert [address for address in long if MODULE_AT <= address < MODULE_AT + 0x800_0000] == []


def test_kernel_without_kaslr_is_found_though_no_cpu_executes_it() -> None:
    kernel = build_kernel(functions=17000)  # more than a MiB
    assert kernel.linked in LINKED_TO
    assert len(live_symbols(Machine(kernel, pc=0x400000))) == len(kernel.symbols)


def test_no_kernel_is_an_error() -> None:
    machine = Machine(build_kernel(), pc=0x400000)
    machine.memory = [(0x400000, bytes(0x10000))]
    for source in ("kallsyms", None):
        with pytest.raises(SymbolError, match="no CPU was seen to execute a Linux kernel"):
            attach(machine, source) if source else live_symbols(machine)
    assert machine.reads < 10000


def test_tables_in_memory_that_do_not_fit_the_text_are_refused() -> None:
    kernel = move(build_kernel(), "relative", 8)  # says that it is elsewhere
    with pytest.raises(FormatError, match="what looks like the kallsyms tables in memory"):
        attach(Machine(kernel), "kallsyms")


def test_symbols_of_another_build_are_refused(tmp_path: Path) -> None:
    kernel, other = build_kernel(), build_kernel(seed=2)
    path = tmp_path / "System.map"
    shifted = [(address + 8 * (number > 300), *rest) for number, (address, *rest) in enumerate(other.symbols)]
    path.write_text(listing(shifted))  # type: ignore[arg-type]
    machine = Machine(kernel, SLIDE)
    with pytest.raises(FormatError, match=r"System\.map does not belong to this kernel"):
        attach(machine, path)
    assert not machine.modules


def test_symbols_that_fit_where_a_cpu_stands_and_no_further_are_refused(tmp_path: Path) -> None:
    kernel = build_kernel(functions=4000, text=kernels.call_in_neighbourhood(4000))
    path = tmp_path / "System.map"
    grown = [(place + 8 * (number > 3000), kind, name) for number, (place, kind, name) in enumerate(kernel.symbols)]
    path.write_text(listing(grown))
    with pytest.raises(FormatError, match="does not belong to this kernel"):
        attach(Machine(kernel, SLIDE), path)


def test_symbols_with_another_build_id_are_refused(tmp_path: Path) -> None:
    kernel = build_kernel()
    path = tmp_path / "Image"
    path.write_bytes(kernel.data)
    machine = Machine(kernel)
    machine.knowing(Module("kernel", build_id="12" * 20))
    with pytest.raises(FormatError, match="its build id is 000102"):
        attach(machine, path)
    machine.knowing(Module("kernel", build_id=BUILD_ID.hex()))
    assert attach(machine, path)[kernel.symbols[3][2]] == kernel.symbols[3][0]


def test_modules(tmp_path: Path) -> None:
    kernel = build_kernel()
    machine = Machine(kernel)
    module = machine.load_module()
    path = tmp_path / "kallsyms"
    data: list[Named] = [(MODULE_AT + 0x10_0000, "d", "table")]
    modules = listing(module, 0, "ext4") + listing(module[:1], 0, "bpf") + listing(data, 0, "data")
    path.write_text(listing(kernel.symbols) + modules)
    table = attach(machine, path)
    assert table.resolve("ext4:module_5+0x4") == module[5][0] + 4
    assert table.lookup(module[5][0] + 4) == (table.find("module_5"), 4)
    assert table.describe(module[5][0]) == "module_5"
    text = (LINKED + TEXT_AT, kernel.symbols[-1][0])
    pages = (MODULE_AT, MODULE_AT + 0x2000)
    assert [(each.name, each.code) for each in machine.modules] == [
        ("kernel", Ranges((text,))), ("data", None), ("ext4", Ranges((pages,))),
    ]  # fmt: skip
    assert machine.writable() == Ranges((text, pages))
    assert machine.code_with(text[0]) == [text]
    assert machine.code_with(MODULE_AT) == [pages], "its own code, not the kernel's"


def test_a_module_without_known_tables_is_claimed(tmp_path: Path) -> None:
    kernel, path = build_kernel(), tmp_path / "kallsyms"
    machine = Machine(kernel)
    module = machine.load_module()
    path.write_text(listing(kernel.symbols) + listing(module, 0, "ext4"))
    attach(machine, path)
    claims = [claim for claim in machine.modules.claims if claim.of_build]
    places = [module[5][0], kernel.symbols[5][0]]
    assert [(claim.hazard, *claim.on(places)) for claim in claims] == [(HAZARD, module[5][0])]
    [sentence] = claims[0].on(places).values()
    assert sentence == "may be listed in a table of module ext4: the kernel does not tell where its tables are"


def test_a_module_with_variables_for_each_cpu_does_not_reach_over_the_kernel(tmp_path: Path) -> None:
    """Linux lists these variables behind the kernel, as 7.2 does for ext4."""
    kernel = build_kernel()
    machine = Machine(kernel)
    module = machine.load_module()
    behind: list[Named] = [(LINKED + len(kernel.data) + 0x10_0000, "d", "each_cpu")]
    path = tmp_path / "kallsyms"
    path.write_text(listing(kernel.symbols) + listing([*module, *behind], 0, "ext4"))
    table = attach(machine, path)
    address = kernel.symbols[8][0]
    assert table.extent(address) == (address, address + FUNCTION)
    assert table.extent(module[-1][0]) is None, "the end of the module's last function is not known"


def test_modules_that_are_elsewhere_now_are_refused(tmp_path: Path) -> None:
    kernel = build_kernel()
    machine = Machine(kernel)
    module = machine.load_module()
    path = tmp_path / "kallsyms"
    for moved in (listing(module, 0x10_0000, "ext4"), listing([(a + 8, *rest) for a, *rest in module], 0, "ext4")):  # type: ignore[misc]
        path.write_text(listing(kernel.symbols) + moved)
        with pytest.raises(FormatError, match="does not say where module ext4 is now"):
            attach(machine, path)
    path.write_text(listing(kernel.symbols) + listing(module, 0, "ext4"))
    with pytest.raises(FormatError, match="saved in another boot"):
        attach(Machine(kernel, SLIDE), path)


def test_image_with_names_from_a_file(tmp_path: Path) -> None:
    kernel = build_kernel()
    names = tmp_path / "System.map"
    names.write_text(listing(kernel.symbols))
    path = tmp_path / "Image"
    path.write_bytes(kernel.data[: kernel.tables_at])
    with open_target(path, symbols=names) as image:
        assert isinstance(image, KernelImage)
        assert image.symbols[kernel.symbols[3][2]] == kernel.symbols[3][0] - LINKED
    path.write_bytes(kernel.data)
    with open_target(path, symbols="kallsyms") as image:
        assert image.symbols[kernel.symbols[3][2]] == kernel.symbols[3][0]
    names.write_text("nonsense\n")
    with pytest.raises(FormatError, match=r"line 1 of .* is not a symbol"):
        open_target(path, symbols=names)


def test_elf_file_that_is_no_kernel_is_left_to_the_target(tmp_path: Path) -> None:
    elf = link(assemble(".globl _start\n_start: nop", tmp_path / "o"), tmp_path / "firmware")
    assert not names_a_kernel(elf)
    assert names_a_kernel("kallsyms")
    kernel = build_kernel()
    image = tmp_path / "Image"
    image.write_bytes(kernel.data)
    with pytest.raises(RequestError, match="takes those of a kernel only"):
        open_target(image, symbols=elf)


def vmlinux(kernel: Kernel, folder: Path) -> Path:
    """The same text and names as an ELF file, with a build id."""
    first = kernel.symbols[0][0]
    labels = "".join(f".globl {name}\n{name} = . + {place - first}\n" for place, _, name in kernel.symbols)
    words = from_bytes(bytes(kernel.data[first - LINKED : kernel.symbols[-1][0] - LINKED + 4]))
    text = ".text\n" + labels + "".join(f".inst {word:#x}\n" for word in words)
    place = ("-Ttext", hex(first), "-e", "0", f"--build-id=0x{BUILD_ID.hex()}")
    return link(assemble(text, folder / "o"), folder / "vmlinux", *place)


def test_vmlinux(tmp_path: Path) -> None:
    kernel = build_kernel()
    machine = Machine(kernel, SLIDE)
    linked = vmlinux(kernel, tmp_path)
    assert names_a_kernel(linked)
    assert attach(machine, linked)[kernel.symbols[9][2]] == kernel.symbols[9][0] + SLIDE
    assert machine.identity().modules == (Build("kernel", BUILD_ID.hex(), SLIDE),)


def test_vmlinux_takes_names_of_a_kernel_and_stays_the_build_that_it_is(tmp_path: Path) -> None:
    kernel = build_kernel()
    linked = vmlinux(kernel, tmp_path)
    listed = tmp_path / "System.map"
    listed.write_text(listing(kernel.symbols))
    for source in (linked, listed):
        with open_target(linked, symbols=source) as target:
            assert target.symbols[kernel.symbols[9][2]] == kernel.symbols[9][0]
            assert target.identity() == Identity(str(linked), BUILD_ID.hex())


def test_listing() -> None:
    text = b"ffff800008010000 T _stext\nffff800008010040 t f.cold\t[ext4]\n0000000000000000 A percpu\n"
    assert parse_listing(text, "it") == [
        KernelSymbol(0, "A", "percpu"),
        KernelSymbol(0xFFFF800008010000, "T", "_stext"),
        KernelSymbol(0xFFFF800008010040, "t", "f.cold", "ext4"),
    ]
    left_out = (
        "x\t[bpf]",
        "$x\t[ext4]",
        "$d.5\t[ext4]",
        "y [__builtin__ftrace]",
        ".L14472\x021\t[brd]",
        ".L1\x017\t[m]",
    )
    assert parse_listing("".join(f"0000000000001000 t {name}\n" for name in left_out).encode(), "it") == []


def test_hidden_addresses_are_refused() -> None:
    with pytest.raises(FormatError, match=r"every address in kallsyms is zero.*kptr_restrict"):
        parse_listing(b"0000000000000000 T _stext\n0000000000000000 T _etext\n", "kallsyms")


@pytest.mark.parametrize(
    "text",
    [
        b"ffffffffffffffff B The real System.map is in the package\n",
        b"ffff800008010000 T _stext\nffff800008010000 T _etext\n",
        b"ffff800008010000 T _stext\nffff80f008010000 T _etext\n",
        b"ffff800008010000 T main\n",
        b"",
        b"ffff800008010000 T _st\x1b[31mext\n",
        b"ffff800008010000 T _st\x02ext\n",
        b"ffff800008010000 T " + b"x" * 2000,
        b"\xff\xfe\0\0",
        b"\x7fELF" + bytes(60),
        bytes(0x38) + b"ARM\x64" + bytes(4),
    ],
)
def test_what_names_no_kernel_is_refused(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "symbols"
    path.write_bytes(text)
    with pytest.raises(FormatError):
        read_source(path)


@given(st.binary(max_size=300))
def test_any_text_is_refused_or_read(text: bytes) -> None:
    try:
        symbols = parse_listing(text, "it")
    except FormatError:
        return
    assert len(symbols) <= text.count(b"\n") + 1


@given(st.data())
@settings(max_examples=rounds(200, 20))
def test_damaged_memory_is_refused_or_fits(data: st.DataObject) -> None:
    kernel = build_kernel(data.draw(st.sampled_from(kernels.LAYOUTS)), functions=300)
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(kernel.tables_at, len(kernel.data) - 8))
        kernel.data[place : place + 8] = data.draw(st.binary(min_size=8, max_size=8))
    machine = Machine(kernel)
    try:
        symbols = live_symbols(machine)
    except (FormatError, SymbolError):
        return
    ends = {symbol.name: symbol.address for symbol in symbols}
    assert LINKED <= ends["_stext"] < ends["_etext"] < LINKED + len(kernel.data)
    assert machine.reads < 10000

"""Boots Debian's arm64 kernels of all releases, one after the other, and patches each: a table row for every kernel.

`python -m tests.real.kernels` takes a quarter of an hour; `python -m tests.real.kernels 6.12 rt` those whose names have
these texts. CI does not run it: there each release boots its own kernel. The packages come from the archive of this
machine's apt sources, from the suites in SUITES, and stay in the cache of packages.py.
Read on: lldb_server.py, another such script.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from a64patch import open_target
from a64patch.errors import A64PatchError
from a64patch.kernel.loaded import modules_of
from a64patch.kernel.running import structures_of
from a64patch.kernel.static_keys import read_keys
from a64patch.kernel.symbols import attach, parse_listing
from a64patch.kernel.tasks import Tasks
from a64patch.patch.asmdiff import parse
from a64patch.patch.journal import Journal
from a64patch.patch.plan import fill, make_plan
from a64patch.patch.transaction import apply_plan, revert
from tests.real import packages
from tests.real.guest import Guest, GuestError
from tests.real.live import RAM, UPTIME
from tests.real.packages import Apt, KernelTree, MissingPackageError
from tests.real.pages import require_equal_bytes, require_own_view
from tests.real.places import Rewrite, draft

SUITES = ("bullseye", "bookworm", "bookworm-backports", "trixie", "trixie-backports", "forky", "sid")
SECURITY = ("bullseye-security", "bookworm-security", "trixie-security")
SERIES = ("5.10", "6.1", "6.12", "6.18", "7.2", "7.3")
"""Newer ones than the last are taken, too."""
COLUMNS = (
    "boot",
    "saved",
    "modules",
    "labels",
    "memory",
    "again",
    "Image",
    "build id",
    "code",
    "names",
    "keys",
    "tasks",
    "kernel patch",
    "module patch",
)
MODULES = {
    "brd",
    "ext4",
    "nf_tables",
    "overlay",
    "virtio_net",
    "nfs",
    "tun",
    "bridge",
    "raid456",
    "dm_crypt",
    "mac80211",
}
_NAME = r"^linux-image-[0-9.]+(-[0-9]+|\+deb[0-9]+(\.[0-9]+)?)(-cloud|-rt)?-arm64(-16k)?$"
_READ = "dd if=/dev/ram0 bs=4096 count=1 iflag=direct 2>/dev/null"


def sources() -> list[str]:
    """The suites of Debian's archive, at the addresses from which this machine gets its own release."""
    form = ("--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages")
    listed = subprocess.run(["apt-get", "indextargets", *form], capture_output=True, text=True, check=True).stdout
    found = []
    for suites, is_this in ((SUITES, lambda suite: "-" not in suite), (SECURITY, lambda s: s.endswith("-security"))):
        addresses = (line.split()[0] for line in listed.splitlines() if is_this(line.split()[1]) and "/debian" in line)
        if address := next(addresses, ""):
            found += [f"deb [arch=arm64] {address} {suite} main" for suite in suites]
    return found


def kernels(apt: Apt) -> Iterator[list[str]]:
    """For each series and flavour the names of its packages, newest first: a mirror may lack the newest."""
    families: dict[tuple[tuple[int, ...], str], list[str]] = {}
    for name in apt.names(_NAME):
        series, flavour = re.match(r"linux-image-(\d+\.\d+)", name)[1], name.partition("arm64")[0].split("-")[-2]  # type: ignore[index]
        numbers = tuple(map(int, series.split(".")))
        if series in SERIES or numbers > tuple(map(int, SERIES[-1].split("."))):
            key = numbers, (flavour if flavour in ("rt", "cloud") else "") + name.rpartition("arm64")[2]
            families.setdefault(key, []).append(name)
    for _, names in sorted(families.items()):
        yield sorted(names, key=lambda name: [int(number) for number in re.findall(r"\d+", name)], reverse=True)


def fetch(apt: Apt, names: Sequence[str]) -> KernelTree:
    """The first of these that can be had, with the packages into which newer releases split a kernel."""
    problem = MissingPackageError("no package")
    for name in names:
        version = name.removeprefix("linux-image-")
        parts = [f"linux-{part}-{version}" for part in ("binary", "modules", "base")]
        try:
            with packages.building(name) as (root, place):
                if place:
                    wanted = [name, *(part for part in parts if part in apt.depends(name))]
                    packages.unpack(apt.download(wanted), place)
            return KernelTree(root)
        except MissingPackageError as error:
            problem = error
    raise problem


def timed(action: Callable[[], object]) -> str:
    """How long it took, or the beginning of the reason why it failed."""
    start = time.monotonic()
    try:
        action()
    except (A64PatchError, GuestError, LookupError, AssertionError) as error:
        return f"FAILED: {type(error).__name__}: {str(error).splitlines()[0][:120] if str(error) else ''}"
    return f"{time.monotonic() - start:.1f} s"


def look_at(tree: KernelTree, folder: Path) -> Iterator[str]:
    """The cells of a kernel's row."""
    begin = time.monotonic()
    has_disk = "brd" in tree.modules
    with Guest(tree=tree, modules=sorted(MODULES & tree.modules.keys()), seconds=300) as guest:
        yield f"{time.monotonic() - begin:.1f} s"
        saved = folder / "kallsyms"
        saved.write_text(guest.symbols())
        notes = guest.run_bytes("cat /sys/kernel/notes")
        [own] = re.findall(r"^([0-9a-f]+) . uptime_proc_show$", saved.read_text(), re.MULTILINE)

        def name(source: Path | str) -> None:
            with open_target(guest.gdb) as target:
                assert attach(target, source)["uptime_proc_show"] == int(own, 16)
                build_id = target.identity().build_id
                assert build_id
                assert bytes.fromhex(build_id) in notes

        def map_code() -> None:
            with open_target(guest.gdb) as target:
                require_own_view(guest, tree, target)
                require_equal_bytes(target)

        def has_new_uptime() -> bool:
            return guest.run("cat /proc/uptime").split()[0].endswith(".1234")

        def has_new_disk() -> bool:
            return guest.run_bytes(_READ) == b"\xa5" * 4096

        yield timed(lambda: name(saved))
        with open_target(guest.gdb, symbols=saved) as target:
            yield str(len(target.modules) - 1)
            build_id = target.identity().build_id
        yield str(len(re.findall(r" \.L\d+[\x01\x02]", saved.read_text())))
        yield timed(lambda: name("kallsyms"))
        yield timed(lambda: name("kallsyms"))
        yield timed(lambda: name(tree.image))
        yield build_id[:12]
        yield timed(map_code)
        yield counted(lambda: names_of_modules(guest, saved))
        yield counted(lambda: words_of_keys(guest))
        yield counted(lambda: tasks_of_proc(guest))
        yield timed(lambda: patch(guest, saved, folder, UPTIME, has_new_uptime))
        yield timed(lambda: patch(guest, saved, folder, RAM, has_new_disk)) if has_disk else "no module brd"
        guest.require_healthy()


def counted(action: Callable[[], int]) -> str:
    """How many were compared, or the beginning of the reason why it failed."""
    found = 0

    def count() -> None:
        nonlocal found
        found = action()

    said = timed(count)
    return said if said.startswith("FAILED") else f"{found:,}"


def names_of_modules(guest: Guest, saved: Path) -> int:
    """How many names of modules from the kernel's own list are those of /proc/kallsyms: all must be."""
    inside = {(s.module, s.address, s.name) for s in parse_listing(saved.read_bytes(), "kallsyms") if s.module}
    with open_target(guest.gdb, symbols="kallsyms") as target:
        ours = {(s.module, s.address, s.name) for s in target.symbols.ascending() if s.module}
    assert ours == inside, f"{len(ours ^ inside)} names differ: {sorted(ours ^ inside)[:3]}"
    return len(ours)


def words_of_keys(guest: Guest) -> int:
    """How many words of static keys were predicted: all that can be read must be right."""
    with open_target(guest.gdb, symbols="kallsyms") as target:
        kernel = target.modules.main
        structures = structures_of(target, kernel.symbols, kernel.build_id)
        modules = [(module.name, module.at) for module in modules_of(target, structures)]
        keys = read_keys(target, modules, structures)
    wrong = [key.name for key in keys if key.differing]
    assert not wrong, f"words of {len(wrong)} keys are not as predicted: {wrong[:3]}"
    return sum(site.known for key in keys for site in key.sites)


def tasks_of_proc(guest: Guest) -> int:
    """How many tasks are those of /proc: all that were there before and afterwards must be found."""

    def listed() -> set[int]:
        return {int(pid) for pid in guest.run("ls -d /proc/[0-9]*/task/[0-9]* | sed 's/.*[/]//'").split()}

    before = listed()
    with open_target(guest.gdb, symbols="kallsyms") as target:
        assert isinstance(target.others, Tasks)
        why = target.others.unseen()
        assert not why, why
        found = {task.pid for task in target.others.tasks() if task.pid}
    after = listed()
    assert before & after <= found <= before | after, sorted(found ^ (before & after))
    return len(found)


def patch(guest: Guest, saved: Path, folder: Path, rewrite: Rewrite, is_new: Callable[[], bool]) -> None:
    """Fill in a draft, apply it, see the kernel behave differently, revert it."""
    with open_target(guest.gdb, symbols=saved) as target, Journal(folder / "journal") as journal:
        plan = make_plan(fill(parse(draft(target, "Try this kernel", rewrite)), target), target)
        applied = apply_plan(plan, target, journal, accept=("branch-into-site", "return-into-site"))
        assert is_new()
        revert(applied.entry, target, journal)
        assert not is_new()


def main(words: Sequence[str]) -> int:
    apt = Apt(sources())
    print("|", " | ".join(("kernel", *COLUMNS)), "|\n|", " | ".join("-" * (1 + len(COLUMNS))), "|")
    failed = 0
    for names in kernels(apt):
        if not all(word in names[0] for word in words):
            continue
        cells: list[str] = []
        with tempfile.TemporaryDirectory(prefix="a64patch-") as folder:
            try:
                tree = fetch(apt, names)
                cells = [tree.root.name.removeprefix("linux-image-")]
                cells += look_at(tree, Path(folder))
            except (A64PatchError, GuestError, LookupError, MissingPackageError) as error:
                cells += [names[0]] * (not cells) + [f"FAILED: {str(error).splitlines()[0][:120]}"]
        failed += any("FAILED" in cell for cell in cells)
        print("|", " | ".join(cells), "|", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

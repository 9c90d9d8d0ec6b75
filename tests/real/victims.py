"""Programs for the guest with a userland, built from C as programs are: static or not, with glibc or musl, stripped.

Read on: userland.py for the guest, whose Debian has the shared libraries.
"""

from __future__ import annotations

from pathlib import Path

from tests.real import packages
from tests.support import need, run

GLIBC = {
    "static": ("-static", "-no-pie"),
    "static-pie": ("-static-pie",),
    "pie": ("-pie", "-fPIE"),
    "no-pie": ("-no-pie", "-fno-pie"),
    "stripped": ("-pie", "-fPIE", "-s"),
}
"""How a program is linked with glibc, by name."""
MUSL = {
    "musl": ("-pie", "-fPIE", "-Wl,--dynamic-linker=/lib/ld-musl-aarch64.so.1"),
    "musl-static": ("-static", "-no-pie", "-fno-pie"),
}
"""How it is linked with musl."""
BUILDS = (*GLIBC, *MUSL)


def build(kind: str, source: str, path: Path, *options: str) -> Path:
    """A program with threads, made from C in one of the ways of BUILDS."""
    compiler = need("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu")
    flags = ("-O1", "-g", *options)
    if kind in GLIBC:
        run(compiler, *flags, *GLIBC[kind], "-pthread", "-o", path, "-x", "c", "-", stdin=source)
        return path
    musl = packages.unpacked("musl-dev") / "usr"
    library = musl / "lib/aarch64-linux-musl"
    headers = ("-nostdinc", "-isystem", musl / "include/aarch64-linux-musl")
    own_headers = ("-isystem", run(compiler, "-print-file-name=include").strip())
    if kind == "musl":
        shared = packages.file_of("musl", "lib/*/libc.so")
        start = library / "Scrt1.o"
        libc = [f"-L{shared.parent}", "-l:libc.so"]  # it has no SONAME: a path to it would stay in the program
    else:
        start = library / "crt1.o"
        libc = [str(library / "libc.a")]
    # Atomic operations of libgcc itself ask glibc which instructions the CPU has.
    code = ("-mno-outline-atomics", *MUSL[kind])
    parts: list[str | Path] = [
        start,
        library / "crti.o",
        "-x",
        "c",
        "-",
        "-x",
        "none",
        *libc,
        "-lgcc",
        library / "crtn.o",
    ]
    run(compiler, *flags, *headers, *own_headers, *code, "-nostdlib", "-o", path, *parts, stdin=source)
    return path

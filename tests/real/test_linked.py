"""Functions that gcc compiled, linked into Debian's Python and into a library of OpenSSL that a program uses.

The programs run under qemu-aarch64.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from a64patch.applying import apply, revert
from a64patch.linking.link import link
from a64patch.patch.asmdiff import parse, to_text
from a64patch.patch.journal import Journal
from a64patch.targets.elf import ElfFile
from tests.real import packages
from tests.support import need, run

BASE = r"""
typedef struct object PyObject;
extern PyObject *PyExc_ValueError, *PyExc_SystemError;
extern PyObject *PyNumber_Index(PyObject *), *PyErr_Format(PyObject *, const char *, ...);
extern PyObject *PyObject_CallMethod(PyObject *, const char *, const char *, ...);
extern PyObject *PyUnicode_FromString(const char *), *PyObject_Format(PyObject *, PyObject *);
extern long PyLong_AsLong(PyObject *);
extern void Py_DecRef(PyObject *);
/* As in CPython, but long numbers are refused, as CVE-2020-10735 asks for decimal ones. */
PyObject *PyNumber_ToBase(PyObject *number, int base)
{
    const char *form = base == 2 ? "#b" : base == 8 ? "#o" : base == 16 ? "#x" : 0;
    if (!form)
        return PyErr_Format(PyExc_SystemError, "base must be 2, 8 or 16, not %d", base);
    PyObject *index = PyNumber_Index(number), *text = 0;
    if (!index)
        return 0;
    PyObject *length = PyObject_CallMethod(index, "bit_length", 0), *wanted = PyUnicode_FromString(form);
    long bits = PyLong_AsLong(length);
    if (bits > 4096)
        PyErr_Format(PyExc_ValueError, "a number of %ld bits is more than %d", bits, 4096);
    else
        text = PyObject_Format(index, wanted);
    Py_DecRef(length);
    Py_DecRef(wanted);
    Py_DecRef(index);
    return text;
}
"""
USE_BASE = """
import difflib, doctest
print(doctest.testmod(difflib).failed, hex(255), bin(-5), oct(1 << 4095)[:5])
try:
    print(hex(1 << 5000)[:5])
except ValueError as error:
    print(error)
"""
USED_BASE = "0 0xff -0b101 0o100\na number of 5001 bits is more than 4096\n"
HEX = """
extern void ERR_new(void);
int OPENSSL_hexchar2int(unsigned char c)
{
    switch (c) {
    case '0': return 0; case '1': return 1; case '2': return 2; case '3': return 3; case '4': return 4;
    case '5': return 5; case '6': return 6; case '7': return 7; case '8': return 8; case '9': return 9;
    case 'a': return 0x0A; case 'b': return 0x0B; case 'c': return 0x0C;
    case 'd': return 0x0D; case 'e': return 0x0E; case 'f': return 0x0F;
    case 'A': ERR_new(); return -2;
    }
    return -1;
}
"""
USE_HEX = """
import ctypes
library = ctypes.CDLL("libcrypto.so.3")
print([library.OPENSSL_hexchar2int(ord(each)) for each in "0123456789abcdefABCDEF@gx/:"])
"""


def changed(file: Path, source: str, name: str, *options: str) -> bytes:
    """Link a function into a file of Debian; the result are the file's bytes as they were."""
    source_file = file.with_suffix(".c")
    source_file.write_text(source)
    unit = file.with_suffix(".o")
    run(need("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"), *options, "-fPIC", "-c", source_file, "-o", unit)
    before = file.read_bytes()
    with ElfFile(file) as target, Journal(file.with_suffix(".journal")) as journal:
        linked = link(unit, target, [name])
        assert linked.replaced == {name: name}
        apply(parse(to_text(linked.diff)), target, journal)
    assert file.read_bytes() != before
    return before


def put_back(file: Path) -> None:
    """Take the function out again."""
    with ElfFile(file) as target, Journal(file.with_suffix(".journal")) as journal:
        [entry] = journal.entries()
        revert(entry.id, target, journal)


def printed(root: Path, python: Path, program: str, *options: str) -> str:
    """What Debian's Python prints under qemu."""
    qemu = need("qemu-aarch64", "qemu-user")
    return run(qemu, "-L", root, "-E", f"PYTHONHOME={root}/usr", *options, python, "-S", "-c", program)


def test_debians_python_with_a_length_check(tmp_path: Path) -> None:
    root = packages.tree("userland-root")
    python = tmp_path / "python3"
    shutil.copy(root / "usr/bin/python3", python)
    before = changed(python, BASE, "PyNumber_ToBase", "-O2", "-mbranch-protection=standard")
    assert printed(root, python, USE_BASE) == USED_BASE
    put_back(python)
    assert python.read_bytes() == before


def test_a_library_that_debians_python_uses(tmp_path: Path) -> None:
    """The new function has a jump table."""
    root = packages.tree("userland-root")
    python = root / "usr/bin/python3"
    library = tmp_path / "libcrypto.so.3"
    shutil.copy(packages.file_of("libssl3", "lib/aarch64-linux-gnu/libcrypto.so.3"), library)
    digits = list(range(16))
    others = [-1] * 5
    options = ("-E", f"LD_LIBRARY_PATH={tmp_path}")
    assert printed(root, python, USE_HEX, *options) == f"{[*digits, *digits[10:], *others]}\n"
    before = changed(library, HEX, "OPENSSL_hexchar2int", "-O1", "-fno-tree-switch-conversion")
    assert printed(root, python, USE_HEX, *options) == f"{[*digits, -2, *[-1] * 5, *others]}\n"
    put_back(library)
    assert library.read_bytes() == before

"""A raw Image is opened, named, patched and replaced; what is no whole Image is refused."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import pytest

from a64patch import open_target
from a64patch.a64.generate import gen_nop
from a64patch.errors import FormatError, MappingError, RequestError, SymbolError, TargetError
from a64patch.kernel.image import KernelImage, sized_columns
from a64patch.patch.text import patch_text
from a64patch.targets.elf import ElfFile
from a64patch.targets.symbols import Symbol
from tests.kernel.kernels import BUILD_ID, FUNCTION, LAYOUTS, LINKED, TEXT_AT, build_kernel, call_each_other
from tests.support import assemble


def save(path: Path, data: bytes | bytearray) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "own place"])
def test_names_stand_where_the_kernel_is_linked_to(tmp_path: Path, layout: str) -> None:
    kernel = build_kernel(layout)
    with KernelImage(save(tmp_path / "Image", kernel.data)) as image:
        for address, _, name in kernel.symbols[:10]:
            assert image.symbols[name] == address
        address, _, name = kernel.symbols[8]
        assert image.symbols.find(name).size == FUNCTION
        assert image.symbols.describe(address + 4) == f"{name}+0x4"
        assert image.read(address, 8) == kernel.data[address - LINKED :][:8]
        assert image.code_ranges() == [(LINKED + TEXT_AT, kernel.symbols[-1][0])]
        assert [(s.address, s.type, s.name) for s in image.kernel_symbols()] == kernel.symbols


def test_symbols_of_columns_have_every_field() -> None:
    """They are made without the constructor, which would fill in what is missing."""
    made = sized_columns([0x40, 0x80], "Td", ["code", "data"], "brd")
    assert made == [Symbol("code", 0x40, 0x40, "brd", True), Symbol("data", 0x80, 0, "brd")]


def test_base_is_read_from_its_relocation(tmp_path: Path) -> None:
    kernel = build_kernel(relocated=False)
    with KernelImage(save(tmp_path / "Image", kernel.data)) as image:
        assert image.symbols[kernel.symbols[5][2]] == kernel.symbols[5][0]


def test_addresses_are_offsets_when_nothing_says_more(tmp_path: Path) -> None:
    kernel = build_kernel("own place")
    with KernelImage(save(tmp_path / "Image", kernel.data)) as image:
        assert image.symbols[kernel.symbols[5][2]] == kernel.symbols[5][0] - LINKED
        assert image.code_ranges() == [(TEXT_AT, kernel.symbols[-1][0] - LINKED)]


def test_identity(tmp_path: Path) -> None:
    path = save(tmp_path / "Image", build_kernel().data)
    with KernelImage(path) as image:
        identity = image.identity()
    assert (identity.location, identity.build_id) == (str(path), BUILD_ID.hex())
    assert (identity.release, identity.base) == ("Linux 6.6.6-test", 0)


def test_kernel_without_names(tmp_path: Path) -> None:
    kernel = build_kernel()
    del kernel.data[kernel.tables_at :]
    with KernelImage(save(tmp_path / "Image", kernel.data)) as image:
        assert image.code_ranges() == [(0, len(kernel.data))]
        assert image.read(TEXT_AT, 4) == kernel.data[TEXT_AT:][:4]
        assert image.symbols.describe(TEXT_AT) == f"{TEXT_AT:#x}"
        with pytest.raises(SymbolError):
            image.symbols["_stext"]


def test_names_that_do_not_fit_the_code_are_not_believed(tmp_path: Path) -> None:
    kernel = build_kernel()
    text = kernel.data[TEXT_AT:][: 600 * FUNCTION]
    kernel.data[TEXT_AT : TEXT_AT + len(text)] = text[8:] + text[:8]
    with KernelImage(save(tmp_path / "Image", kernel.data)) as image:
        assert image.kernel_symbols() == []


def test_names_that_fit_most_of_the_code_are_not_believed(tmp_path: Path) -> None:
    text = call_each_other(4000)
    end = 3840 * FUNCTION
    kernel = build_kernel(functions=4000, text=text[:end] + bytes(8) + text[end:-8])
    with KernelImage(save(tmp_path / "Image", kernel.data)) as image:
        assert image.kernel_symbols() == []


def test_patch_and_revert(tmp_path: Path) -> None:
    kernel = build_kernel()
    path = save(tmp_path / "Image", kernel.data)
    path.chmod(0o640)
    with KernelImage(path) as image:
        site = image.symbols.resolve(f"{kernel.symbols[3][2]}+0x4")
        old = int.from_bytes(image.read(site, 4), "little")
        patch_text(image, [site], [gen_nop()], expected=[old])
    changed = path.read_bytes()
    offset = site - LINKED
    assert changed == kernel.data[:offset] + struct.pack("<I", gen_nop()) + kernel.data[offset + 4 :]
    assert path.stat().st_mode & 0o777 == 0o640
    with KernelImage(path) as image:
        patch_text(image, [site], [old], expected=[gen_nop()])
    assert path.read_bytes() == kernel.data


def test_only_code_is_written_and_only_the_file_is_read(tmp_path: Path) -> None:
    kernel = build_kernel()
    path = save(tmp_path / "Image", kernel.data)
    with KernelImage(path) as image:
        for address in (LINKED, LINKED + TEXT_AT - 4, kernel.symbols[-1][0] - 2):
            with pytest.raises(MappingError, match="is not code"):
                image.write(address, b"1234")
        for address, size in ((LINKED - 4, 4), (LINKED + len(kernel.data), 1), (LINKED, 1 << 40), (LINKED, -1)):
            with pytest.raises(MappingError):
                image.read(address, size)
    with pytest.raises(TargetError, match="closed"):
        image.read(LINKED, 4)
    assert path.read_bytes() == kernel.data


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:40], "there is no .* at 0x38"),
        (lambda data: data[:24] + b"\x0b" + data[25:], "big-endian"),
        (lambda data: data[:16] + b"\xff" * 8 + data[24:], "not a sound Image"),
        (lambda data: data[:16] + struct.pack("<Q", 4096) + data[24:], "not a sound Image"),
        (lambda data: b"", "there is no .* at 0x38"),
    ],
)
def test_what_is_no_image_is_refused(tmp_path: Path, change: object, message: str) -> None:
    assert callable(change)
    with pytest.raises(FormatError, match=message):
        KernelImage(save(tmp_path / "Image", change(bytes(build_kernel().data))))


def test_truncated_image_with_an_efi_stub_is_refused(tmp_path: Path) -> None:
    data = build_kernel().data
    data[:2] = b"MZ"
    struct.pack_into("<I", data, 60, 64)
    data[64:68] = b"PE\0\0"
    struct.pack_into("<H", data, 64 + 6, 1)
    struct.pack_into("<II", data, 64 + 24 + 16, len(data) - 0x400, 0x400)
    KernelImage(save(tmp_path / "Image", data)).close()
    with pytest.raises(FormatError, match="is truncated"):
        KernelImage(save(tmp_path / "cut", data[:-1]))


def test_open_target_picks(tmp_path: Path) -> None:
    data = bytes(build_kernel().data)
    with open_target(save(tmp_path / "Image", data)) as image, open_target(str(tmp_path / "Image")) as again:
        assert isinstance(image, KernelImage)
        assert isinstance(again, KernelImage)
    with open_target(assemble("nop", tmp_path / "object")) as elf:
        assert isinstance(elf, ElfFile)
    with pytest.raises(FormatError, match=r"decompress it first \(gunzip\)"):
        open_target(save(tmp_path / "Image.gz", gzip.compress(data)))
    with pytest.raises(FormatError, match="compressed kernel"):
        open_target(save(tmp_path / "vmlinuz.efi", b"MZ\0\0zimg" + bytes(100)))
    with pytest.raises(FormatError, match=r"its section \.linux is the kernel"):
        open_target(save(tmp_path / "vmlinuz", b"MZ" + bytes(100)))
    with pytest.raises(RequestError, match="no option remote"):
        open_target(tmp_path / "Image", remote=True)
    with pytest.raises(TargetError):
        open_target(tmp_path / "nothing")

"""Loads and stores of general registers, and of SIMD and FP registers one at a time: Arm ARM C4.1, Loads and Stores.

Read on: integer.py for arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator

from a64patch.a64.row import Encoding, holes, rows


def _literals() -> Iterator[Encoding]:
    table = "Load register (literal)"
    yield from rows(
        table,
        ("ldrsw_lit", "10 011 0 00 imm19:19 rt:5", "ldrsw <X:rt>, <label:imm19>"),
        families="literal_load",
        literal=True,
        memory="load",
        size=4,
    )
    yield from rows(
        table,
        ("prfm_lit", "11 011 0 00 imm19:19 rt:5", "prfm <prfop:rt>, <label:imm19>"),
        families="literal_load", literal=True,
    )  # fmt: skip
    yield from rows(
        table,
        ("ldr_lit.w", "00 011 0 00 imm19:19 rt:5", "ldr <W:rt>, <label:imm19>"),
        ("ldr_lit.x", "01 011 0 00 imm19:19 rt:5", "ldr <X:rt>, <label:imm19>"),
        ("ldr_fp_lit.s", "00 011 1 00 imm19:19 rt:5", "ldr <S:rt>, <label:imm19>"),
        ("ldr_fp_lit.d", "01 011 1 00 imm19:19 rt:5", "ldr <D:rt>, <label:imm19>"),
        ("ldr_fp_lit.q", "10 011 1 00 imm19:19 rt:5", "ldr <Q:rt>, <label:imm19>"),
        families="literal_load", literal=True, memory="load",
    )  # fmt: skip


def _exclusives() -> Iterator[Encoding]:
    table = "Load/store exclusive register"
    for suffix, size, register in (("b", "00", "W"), ("h", "01", "W"), (".w", "10", "W"), (".x", "11", "X")):
        mnemonic, width = suffix if not suffix.startswith(".") else "", 1 << int(size, 2)
        for order, o0 in (("", "0"), ("l", "1")):
            yield from rows(
                table,
                (f"st{order}xr{suffix}", f"{size} 001000 000 rs:5 {o0} 11111 rn:5 rt:5",
                 f"st{order}xr{mnemonic} <W:rs>, <{register}:rt>, [<XSP:rn>{{, <zero>}}]"),
                families="exclusive store_ex", writes="rs", memory="store", size=width,
            )  # fmt: skip
        for order, o0 in (("", "0"), ("a", "1")):
            yield from rows(
                table,
                (f"ld{order}xr{suffix}", f"{size} 001000 010 11111 {o0} 11111 rn:5 rt:5",
                 f"ld{order}xr{mnemonic} <{register}:rt>, [<XSP:rn>{{, <zero>}}]"),
                families="exclusive load_ex", memory="load", size=width,
            )  # fmt: skip
    table = "Load/store exclusive pair"
    for size, register in (("10", "W"), ("11", "X")):
        suffix = register.lower()
        for order, o0 in (("", "0"), ("l", "1")):
            yield from rows(
                table,
                (f"st{order}xp.{suffix}", f"{size} 001000 001 rs:5 {o0} rt2:5 rn:5 rt:5",
                 f"st{order}xp <W:rs>, <{register}:rt>, <{register}:rt2>, [<XSP:rn>{{, <zero>}}]"),
                families="exclusive store_ex", writes="rs", memory="store",
            )  # fmt: skip
        for order, o0 in (("", "0"), ("a", "1")):
            yield from rows(
                table,
                (f"ld{order}xp.{suffix}", f"{size} 001000 011 11111 {o0} rt2:5 rn:5 rt:5",
                 f"ld{order}xp <{register}:rt>, <{register}:rt2>, [<XSP:rn>{{, <zero>}}]"),
                families="exclusive load_ex", memory="load",
            )  # fmt: skip


_REGISTERS = (
    # mnemonic, the letter for bytes and halfwords, size, opc, register, log2 of the access in bytes
    ("str", "b", "00", "00", "W", 0),
    ("ldr", "b", "00", "01", "W", 0),
    ("ldrs", "b", "00", "10", "X", 0),
    ("ldrs", "b", "00", "11", "W", 0),
    ("str", "h", "01", "00", "W", 1),
    ("ldr", "h", "01", "01", "W", 1),
    ("ldrs", "h", "01", "10", "X", 1),
    ("ldrs", "h", "01", "11", "W", 1),
    ("str", "", "10", "00", "W", 2),
    ("ldr", "", "10", "01", "W", 2),
    ("ldrs", "w", "10", "10", "X", 2),
    ("str", "", "11", "00", "X", 3),
    ("ldr", "", "11", "01", "X", 3),
)


def _one_register() -> Iterator[Encoding]:
    for verb, letter, size, opc, register, scale in _REGISTERS:
        stem, sign = verb[:2], verb[3:]
        rt = f"<{register}:rt>"
        name = f"{verb}{letter}"
        own = f"{name}.{register.lower()}"
        head = f"{size} 111 0 00 {opc} 0 imm9:9"
        memory, width = {"st": "store", "ld": "load"}[stem], 1 << scale
        yield from rows(
            "Load/store register (unsigned immediate)",
            (f"{name}_imm.{register.lower()}", f"{size} 111 0 01 {opc} imm12:12 rn:5 rt:5",
             f"{name} {rt}, [<XSP:rn>{{, <offset_{1 << scale}:imm12>}}]"),
            memory=memory, size=width,
        )  # fmt: skip
        unscaled = f"{stem}ur{sign}{letter}"
        yield from rows(
            "Load/store register (unscaled immediate)",
            (f"{unscaled}.{register.lower()}", f"{head.replace('imm9', 'simm9')} 00 rn:5 rt:5",
             (f"{unscaled} {rt}, [<XSP:rn>{{, <signed_offset_1:simm9>}}]",
              f"{name} {rt}, [<XSP:rn>{{, <signed_offset_1:simm9>}}]")),
            memory=memory, size=width,
        )  # fmt: skip
        yield from rows(
            "Load/store register (immediate post-indexed)",
            (f"{name}_post.{register.lower()}", f"{head.replace('imm9', 'simm9')} 01 rn:5 rt:5",
             f"{name} {rt}, [<XSP:rn>], <signed_1:simm9>"),
            memory=memory, size=width,
        )  # fmt: skip
        yield from rows(
            "Load/store register (immediate pre-indexed)",
            (f"{name}_pre.{register.lower()}", f"{head.replace('imm9', 'simm9')} 11 rn:5 rt:5",
             f"{name} {rt}, [<XSP:rn>, <signed_1:simm9>]!"),
            memory=memory, size=width,
        )  # fmt: skip
        unprivileged = f"{stem}tr{sign}{letter}"
        yield from rows(
            "Load/store register (unprivileged)",
            (f"{unprivileged}.{register.lower()}", f"{head.replace('imm9', 'simm9')} 10 rn:5 rt:5",
             f"{unprivileged} {rt}, [<XSP:rn>{{, <signed_offset_1:simm9>}}]"),
            memory=memory, size=width,
        )  # fmt: skip
        yield from rows(
            "Load/store register (register offset)",
            (f"{own.replace('.', '_reg.')}", f"{size} 111 0 00 {opc} 1 rm:5 sign:1 1 wide:1 s:1 10 rn:5 rt:5",
             f"{name} {rt}, [<XSP:rn>, <index_{1 << scale}:rm:sign:wide:s>]"),
            memory=memory, size=width,
        )  # fmt: skip
    yield from rows(
        "Load/store register (unsigned immediate)",
        ("prfm_imm", "11 111 0 01 10 imm12:12 rn:5 rt:5", "prfm <prfop:rt>, [<XSP:rn>{, <offset_8:imm12>}]"),
    )
    yield from rows(
        "Load/store register (unscaled immediate)",
        ("prfum", "11 111 0 00 10 0 simm9:9 00 rn:5 rt:5",
         ("prfum <prfop:rt>, [<XSP:rn>{, <signed_offset_1:simm9>}]",
          "prfm <prfop:rt>, [<XSP:rn>{, <signed_offset_1:simm9>}]")),
    )  # fmt: skip
    yield from rows(
        "Load/store register (register offset)",
        ("prfm_reg", "11 111 0 00 10 1 rm:5 sign:1 1 wide:1 s:1 10 rn:5 rt:5",
         "prfm <prfop:rt>, [<XSP:rn>, <index_8:rm:sign:wide:s>]"),
    )  # fmt: skip
    yield from rows(
        "Load/store register (register offset)",
        ("rprfm", "11 111 0 00 10 1 rm:5 high:1 1 middle:1 s:1 10 rn:5 11 low:3",
         "rprfm <rprfop:high:middle:s:low>, <X:rm>, [<XSP:rn>{, <zero>}]"),
        feature="FEAT_RPRFM",
    )  # fmt: skip
    for key, bit in (("a", "0"), ("b", "1")):
        head = f"11 111 0 00 {bit} sign:1 1 simm9:9"
        yield from rows(
            "Load/store register (pac)",
            (f"ldra{key}", f"{head} 01 rn:5 rt:5", f"ldra{key} <X:rt>, [<XSP:rn>{{, <signed_offset_8:sign:simm9>}}]"),
            (f"ldra{key}_pre", f"{head} 11 rn:5 rt:5",
             (f"ldra{key} <X:rt>, [<XSP:rn>]!<=0:sign><=0:simm9>",
              f"ldra{key} <X:rt>, [<XSP:rn>, <signed_8:sign:simm9>]!")),
            feature="FEAT_PAuth", memory="load",
        )  # fmt: skip


def _pairs() -> Iterator[Encoding]:
    for name, opc, bit, register, scale in (
        ("stp", "00", "0", "W", 2), ("ldp", "00", "1", "W", 2), ("ldpsw", "01", "1", "X", 2),
        ("stp", "10", "0", "X", 3), ("ldp", "10", "1", "X", 3), ("stgp", "01", "0", "X", 4),
    ):  # fmt: skip
        feature = "FEAT_MTE" if name == "stgp" else ""
        two = f"<{register}:rt>, <{register}:rt2>"
        size, unit = register.lower(), 1 << scale
        tail = f"{bit} imm7:7 rt2:5 rn:5 rt:5"
        offset = f"[<XSP:rn>{{, <signed_offset_{unit}:imm7>}}]"
        memory = "store" if bit == "0" else "load"
        yield from rows(
            "Load/store register pair",
            (f"{name}_post.{size}", f"{opc} 101 0 001 {tail}", f"{name} {two}, [<XSP:rn>], <signed_{unit}:imm7>"),
            (f"{name}.{size}", f"{opc} 101 0 010 {tail}", f"{name} {two}, {offset}"),
            (f"{name}_pre.{size}", f"{opc} 101 0 011 {tail}", f"{name} {two}, [<XSP:rn>, <signed_{unit}:imm7>]!"),
            feature=feature, memory=memory, size=8 if name == "ldpsw" else 0,
        )  # fmt: skip
        if name in ("stp", "ldp"):
            yield from rows(
                "Load/store no-allocate pair",
                (f"{name[:2]}np.{size}", f"{opc} 101 0 000 {tail}", f"{name[:2]}np {two}, {offset}"),
                memory=memory,
            )


_SIZES = (("b", "00", "W"), ("h", "01", "W"), (".w", "10", "W"), (".x", "11", "X"))
_BASE = "[<XSP:rn>{, <zero>}]"


def _mnemonic(name: str, suffix: str) -> str:
    return name if suffix.startswith(".") else name + suffix


def _ordered() -> Iterator[Encoding]:
    for suffix, size, register in _SIZES:
        width = 1 << int(size, 2)
        for name, bits, feature in (
            ("stllr", "0 0 11111 0", "FEAT_LOR"), ("ldlar", "1 0 11111 0", "FEAT_LOR"), ("stlr", "0 0 11111 1", ""),
            ("ldar", "1 0 11111 1", ""),
        ):  # fmt: skip
            yield from rows(
                "Load/store ordered",
                (f"{name}{suffix}", f"{size} 001000 1 {bits} 11111 rn:5 rt:5",
                 f"{_mnemonic(name, suffix)} <{register}:rt>, {_BASE}"),
                feature=feature, memory="store" if name.startswith("st") else "load", size=width,
            )  # fmt: skip
        for acquire, a in (("", "0"), ("a", "1")):
            for release, r in (("", "0"), ("l", "1")):
                name = f"cas{acquire}{release}"
                yield from rows(
                    "Compare and swap",
                    (f"{name}{suffix}", f"{size} 001000 1 {a} 1 rs:5 {r} 11111 rn:5 rt:5",
                     f"{_mnemonic(name, suffix)} <{register}:rs>, <{register}:rt>, {_BASE}"),
                    families="cas", feature="FEAT_LSE", reads="rs", writes="rs", memory="load store", size=width,
                )  # fmt: skip
                if suffix in (".w", ".x"):
                    sz = "0" if suffix == ".w" else "1"
                    pair = f"<{register}pair:rs>, <{register}pair:rt>, {_BASE}"
                    yield from rows(
                        "Compare and swap pair",
                        (f"casp{acquire}{release}{suffix}", f"0{sz} 001000 0 {a} 1 rs:4 0 {r} 11111 rn:5 rt:4 0",
                         f"casp{acquire}{release} {pair}"),
                        families="casp", feature="FEAT_LSE", reads="rs", writes="rs", memory="load store",
                    )  # fmt: skip
        yield from rows(
            "Atomic memory operations",
            (f"ldapr{suffix}", f"{size} 111 0 00 1 0 1 11111 1 100 00 rn:5 rt:5",
             f"{_mnemonic('ldapr', suffix)} <{register}:rt>, {_BASE}"),
            feature="FEAT_LRCPC", memory="load", size=width,
        )  # fmt: skip
    for name, size, opc, register in (
        ("stlurb", "00", "00", "W"), ("ldapurb", "00", "01", "W"), ("ldapursb", "00", "10", "X"),
        ("ldapursb", "00", "11", "W"), ("stlurh", "01", "00", "W"), ("ldapurh", "01", "01", "W"),
        ("ldapursh", "01", "10", "X"), ("ldapursh", "01", "11", "W"), ("stlur", "10", "00", "W"),
        ("ldapur", "10", "01", "W"), ("ldapursw", "10", "10", "X"), ("stlur", "11", "00", "X"),
        ("ldapur", "11", "01", "X"),
    ):  # fmt: skip
        yield from rows(
            "LDAPR/STLR (unscaled immediate)",
            (f"{name}.{register.lower()}", f"{size} 011001 {opc} 0 simm9:9 00 rn:5 rt:5",
             f"{name} <{register}:rt>, [<XSP:rn>{{, <signed_offset_1:simm9>}}]"),
            feature="FEAT_LRCPC2", memory="store" if name.startswith("st") else "load", size=1 << int(size, 2),
        )  # fmt: skip
    table = "LDIAPP/STILP"
    for size, register, unit in (("10", "W", 4), ("11", "X", 8)):
        two, letter = f"<{register}:rt>, <{register}:rt2>", register.lower()
        yield from rows(
            table,
            (f"stilp_pre.{letter}", f"{size} 011001 00 0 rt2:5 0000 10 rn:5 rt:5",
             f"stilp {two}, [<XSP:rn>, #-{2 * unit}]!"),
            (f"stilp.{letter}", f"{size} 011001 00 0 rt2:5 0001 10 rn:5 rt:5", f"stilp {two}, [<XSP:rn>]"),
            (f"stlr_pre.{letter}", f"{size} 011001 10 0 00000 0000 10 rn:5 rt:5",
             f"stlr <{register}:rt>, [<XSP:rn>, #-{unit}]!"),
            feature="FEAT_LRCPC3", memory="store",
        )  # fmt: skip
        yield from rows(
            table,
            (f"ldiapp_post.{letter}", f"{size} 011001 01 0 rt2:5 0000 10 rn:5 rt:5",
             f"ldiapp {two}, [<XSP:rn>], #{2 * unit}"),
            (f"ldiapp.{letter}", f"{size} 011001 01 0 rt2:5 0001 10 rn:5 rt:5", f"ldiapp {two}, [<XSP:rn>]"),
            (f"ldapr_post.{letter}", f"{size} 011001 11 0 00000 0000 10 rn:5 rt:5",
             f"ldapr <{register}:rt>, [<XSP:rn>], #{unit}"),
            feature="FEAT_LRCPC3", memory="load",
        )  # fmt: skip


def _atomics() -> Iterator[Encoding]:
    table = "Atomic memory operations"
    for suffix, size, register in _SIZES:
        width = 1 << int(size, 2)
        for acquire, a in (("", "0"), ("a", "1")):
            for release, r in (("", "0"), ("l", "1")):
                for number, operation in enumerate(("add", "clr", "eor", "set", "smax", "smin", "umax", "umin")):
                    order = f"{acquire}{release}"
                    texts = [f"{_mnemonic(f'ld{operation}{order}', suffix)} <{register}:rs>, <{register}:rt>, {_BASE}"]
                    if not acquire:
                        store = _mnemonic(f"st{operation}{release}", suffix)
                        texts.insert(0, f"{store} <{register}:rs>, <=31:rt>{_BASE}")
                    yield from rows(
                        table,
                        (f"ld{operation}{order}{suffix}", f"{size} 111 0 00 {a} {r} 1 rs:5 0 {number:03b} 00 rn:5 rt:5",
                         tuple(texts)),
                        families="atomic", feature="FEAT_LSE", writes="rt", memory="load store", size=width,
                    )  # fmt: skip
                yield from rows(
                    table,
                    (f"swp{acquire}{release}{suffix}", f"{size} 111 0 00 {a} {r} 1 rs:5 1 000 00 rn:5 rt:5",
                     f"{_mnemonic(f'swp{acquire}{release}', suffix)} <{register}:rs>, <{register}:rt>, {_BASE}"),
                    families="atomic", feature="FEAT_LSE", writes="rt", memory="load store", size=width,
                )  # fmt: skip
    for acquire, a in (("", "0"), ("a", "1")):
        for release, r in (("", "0"), ("l", "1")):
            for name, o3, opc in (("ldclrp", "0", "001"), ("ldsetp", "0", "011"), ("swpp", "1", "000")):
                yield from rows(
                    "128-bit atomic memory operations",
                    (f"{name}{acquire}{release}", f"00 011001 {a} {r} 1 rt2:5 {o3} {opc} 00 rn:5 rt:5",
                     f"{name}{acquire}{release} <X!:rt>, <X!:rt2>, {_BASE}"),
                    families="atomic", feature="FEAT_LSE128", reads="rt rt2", writes="rt rt2", memory="load store",
                )  # fmt: skip
    for name, bits, feature in (
        ("ld64b", "11111 1 101", "FEAT_LS64"), ("st64b", "11111 1 001", "FEAT_LS64"),
        ("st64bv", "rs:5 1 011", "FEAT_LS64_V"), ("st64bv0", "rs:5 1 010", "FEAT_LS64_ACCDATA"),
    ):  # fmt: skip
        status = "<X:rs>, " if "rs" in bits else ""
        # Eight registers from an even one on: 24 and beyond would leave X30 out of reach.
        head = f"11 111 0 00 0 0 1 {bits} 00 rn:5"
        yield from rows(
            table, (name, f"{head} rt:4 0", f"{name} {status}<X8:rt>, {_BASE}"),
            feature=feature, writes="rs" if status else "", memory="load" if name == "ld64b" else "store",
        )  # fmt: skip
        yield from holes(table, f"{head} 11 l:2 0")


def _read_check_write() -> Iterator[Encoding]:
    for acquire, a in (("", "0"), ("a", "1")):
        for release, r in (("", "0"), ("l", "1")):
            for prefix, s in (("rcw", "0"), ("rcws", "1")):
                order = f"{acquire}{release}"
                head, base = f"0{s} 011001 {a} {r} 1", _BASE
                yield from rows(
                    "RCW compare and swap",
                    (f"{prefix}cas{order}", f"{head} rs:5 0000 10 rn:5 rt:5",
                     f"{prefix}cas{order} <X:rs>, <X:rt>, {base}"),
                    families="atomic", feature="FEAT_THE", reads="rs", writes="rs nzcv", memory="load store",
                )  # fmt: skip
                yield from rows(
                    "RCW compare and swap pair",
                    (f"{prefix}casp{order}", f"{head} rs:4 0 0000 11 rn:5 rt:4 0",
                     f"{prefix}casp{order} <Xpair:rs>, <Xpair:rt>, {base}"),
                    families="atomic", feature="FEAT_THE", reads="rs", writes="rs nzcv", memory="load store",
                )  # fmt: skip
                for operation, opc in (("clr", "001"), ("swp", "010"), ("set", "011")):
                    yield from rows(
                        "Atomic memory operations",
                        (f"{prefix}{operation}{order}", f"0{s} 111 0 00 {a} {r} 1 rs:5 1 {opc} 00 rn:5 rt:5",
                         f"{prefix}{operation}{order} <X:rs>, <X:rt>, {base}"),
                        families="atomic", feature="FEAT_THE", writes="rt nzcv", memory="load store",
                    )  # fmt: skip
                    yield from rows(
                        "128-bit atomic memory operations",
                        (f"{prefix}{operation}p{order}", f"{head} rt2:5 1 {opc} 00 rn:5 rt:5",
                         f"{prefix}{operation}p{order} <X!:rt>, <X!:rt2>, {base}"),
                        families="atomic", feature="FEAT_THE",
                        reads="rt rt2", writes="rt rt2 nzcv", memory="load store",
                    )  # fmt: skip


def _tags() -> Iterator[Encoding]:
    table = "Load/store memory tags"
    for name, opc in (("stg", "00"), ("stzg", "01"), ("st2g", "10"), ("stz2g", "11")):
        head = f"11011001 {opc} 1 simm9:9"
        yield from rows(
            table,
            (f"{name}_post", f"{head} 01 rn:5 rt:5", f"{name} <XSP:rt>, [<XSP:rn>], <signed_16:simm9>"),
            (name, f"{head} 10 rn:5 rt:5", f"{name} <XSP:rt>, [<XSP:rn>{{, <signed_offset_16:simm9>}}]"),
            (f"{name}_pre", f"{head} 11 rn:5 rt:5", f"{name} <XSP:rt>, [<XSP:rn>, <signed_16:simm9>]!"),
            feature="FEAT_MTE", memory="store", size=None,
        )  # fmt: skip
    yield from rows(
        table,
        ("ldg", "11011001 01 1 simm9:9 00 rn:5 rt:5", "ldg <X:rt>, [<XSP:rn>{, <signed_offset_16:simm9>}]"),
        feature="FEAT_MTE", reads="rt", memory="load", size=None,
    )  # fmt: skip
    for name, opc in (("stzgm", "00"), ("stgm", "10"), ("ldgm", "11")):
        yield from rows(
            table,
            (name, f"11011001 {opc} 1 000000000 00 rn:5 rt:5", f"{name} <X:rt>, [<XSP:rn>]"),
            feature="FEAT_MTE2", memory="load" if name == "ldgm" else "store", size=None,
        )  # fmt: skip
    yield from rows(
        "GCS store",
        ("gcsstr", "1101100100011111 000 0 11 rn:5 rt:5", "gcsstr <X:rt>, [<XSP:rn>]"),
        ("gcssttr", "1101100100011111 000 1 11 rn:5 rt:5", "gcssttr <X:rt>, [<XSP:rn>]"),
        feature="FEAT_GCS",
        memory="store",
    )


_PHASES = {"p": ("", "nzcv"), "m": ("nzcv", ""), "e": ("nzcv", "")}
"""What prologue, main part and epilogue read and write: PSTATE.C tells the later ones which algorithm was chosen."""


def _copies() -> Iterator[Encoding]:
    table = "Memory copy and memory set"
    options = ("", "wt", "rt", "t", "wn", "wtwn", "rtwn", "twn", "rn", "wtrn", "rtrn", "trn", "n", "wtn", "rtn", "tn")
    for stem, o0 in (("cpyf", "0"), ("cpy", "1")):
        for number, (phase, (reads, writes)) in enumerate(_PHASES.items()):
            for op2, option in enumerate(options):
                name = f"{stem}{phase}{option}"
                yield from rows(
                    table,
                    (name, f"00 011 {o0} 01 {number:02b} 0 rs:5 {op2:04b} 01 rn:5 rd:5",
                     f"{name} [<X!:rd>]!, [<X!:rs>]!, <X!:rn>!<distinct:rd:rs:rn>"),
                    families="mops", feature="FEAT_MOPS", memory="load store", size=None, reads=reads, writes=writes,
                )  # fmt: skip
    for stem, o0, feature in (("set", "0", "FEAT_MOPS"), ("setg", "1", "FEAT_MOPS")):
        for number, (phase, (reads, writes)) in enumerate(_PHASES.items()):
            for op2, option in enumerate(("", "t", "n", "tn")):
                name = f"{stem}{phase}{option}"
                yield from rows(
                    table,
                    (name, f"00 011 {o0} 01 11 0 rs:5 {number:02b}{op2:02b} 01 rn:5 rd:5",
                     f"{name} [<X!:rd>]!, <X!:rn>!, <X:rs><distinct:rd:rs:rn>"),
                    families="mops", feature=feature, memory="store", size=None, reads=reads, writes=writes,
                )  # fmt: skip


def table() -> Iterator[Encoding]:
    """The rows of this file."""
    for part in (_literals, _exclusives, _one_register, _pairs, _ordered, _atomics, _read_check_write, _tags, _copies):
        yield from part()

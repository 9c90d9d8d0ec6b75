"""Data processing on general registers: Arm ARM C4.1, Data Processing -- Immediate and -- Register.

Read on: memory.py for loads and stores.
"""

from __future__ import annotations

from collections.abc import Iterator

from a64patch.a64.row import Encoding, holes, rows


def _addresses() -> Iterator[Encoding]:
    yield from rows(
        "PC-rel. addressing",
        ("adr", "0 immlo:2 10000 immhi:19 rd:5", "adr <X:rd>, <adr:immhi:immlo>"),
        ("adrp", "1 immlo:2 10000 immhi:19 rd:5", "adrp <X:rd>, <adrp:immhi:immlo>"),
    )


def _movewide() -> Iterator[Encoding]:
    table = "Move wide (immediate)"
    for name, opc, constant in (
        ("movz", "10", "wide"),
        ("movn", "00", "wide_not"),
        ("movk", "11", ""),
    ):
        for size, sf, hw, register in (("w", "0", "0 hw:1", "W"), ("x", "1", "hw:2", "X")):
            alias = f"mov <{register}:rd>, <{constant}_{size}:hw:imm16>" if constant else ""
            yield from rows(
                table,
                (f"{name}.{size}", f"{sf}{opc}100101 {hw} imm16:16 rd:5",
                 tuple(filter(None, (alias, f"{name} <{register}:rd>, <hex:imm16>{{, <lsl16:hw>}}")))),
                families="movewide", reads="rd" if name == "movk" else "",
            )  # fmt: skip


_PLAIN = "rn:5 rd:5"


def _add_subtract_immediate() -> Iterator[Encoding]:
    table = "Add/subtract (immediate)"
    for name, op, alias, opposite, other_alias in (
        ("add", "0", "cmn", "sub", "cmp"),
        ("sub", "1", "cmp", "add", "cmn"),
    ):
        move = (
            "mov <SP:sf:rd>, <RSP:sf:rn><=0:sh><=0:imm12>",
            "mov <RSP:sf:rd>, <SP:sf:rn><=0:sh><=0:imm12>",
        ) if name == "add" else ()  # fmt: skip
        operands, negative = "<RSP:sf:rn>, <imm12:sh:imm12>", "<RSP:sf:rn>, <negative12:sh:imm12>"
        plain = f"sf:1 {op} 0 100010 sh:1 imm12:12 {_PLAIN}"
        flags = f"sf:1 {op} 1 100010 sh:1 imm12:12 {_PLAIN}"
        yield from rows(
            table,
            (f"{name}_imm", plain, (*move, f"{name} <RSP:sf:rd>, {operands}", f"{opposite} <RSP:sf:rd>, {negative}")),
        )
        yield from rows(
            table,
            (f"{name}s_imm", flags, (
                f"{alias} <=31:rd>{operands}", f"{name}s <R:sf:rd>, {operands}",
                f"{other_alias} <=31:rd>{negative}", f"{opposite}s <R:sf:rd>, {negative}",
            )),
            writes="nzcv",
        )  # fmt: skip
    yield from rows(
        "Add/subtract (immediate, with tags)",
        ("addg", f"100100011 0 uimm6:6 00 uimm4:4 {_PLAIN}", "addg <XSP:rd>, <XSP:rn>, <imm_x16:uimm6>, <imm:uimm4>"),
        ("subg", f"110100011 0 uimm6:6 00 uimm4:4 {_PLAIN}", "subg <XSP:rd>, <XSP:rn>, <imm_x16:uimm6>, <imm:uimm4>"),
        feature="FEAT_MTE",
    )  # fmt: skip
    for name, opc, kind in (
        ("smax", "00", "simm"),
        ("umax", "01", "imm"),
        ("smin", "10", "simm"),
        ("umin", "11", "imm"),
    ):
        yield from rows(
            "Min/max (immediate)",
            (f"{name}_imm", f"sf:1 00100011100 {opc} imm8:8 {_PLAIN}", f"{name} <R:sf:rd>, <R:sf:rn>, <{kind}:imm8>"),
            feature="FEAT_CSSC",
        )


def _logical_immediate() -> Iterator[Encoding]:
    table = "Logical (immediate)"
    # Element sizes of 32 to 2 bits: a run as long as the element is reserved (Arm ARM, DecodeBitMasks).
    reserved = ("011111", "101111", "110111", "111011", "111101", "11111 l:1")
    for name, opc in (("and", "00"), ("orr", "01"), ("eor", "10"), ("ands", "11")):
        for size, head, registers in (
            ("w", f"0 {opc} 100100 0", "W"),
            ("x", f"1 {opc} 100100 n:1", "X"),
        ):
            fields = "immr:imms" if size == "w" else "n:immr:imms"
            mask = f"<logical_{size}:{fields}>"
            target = registers if name == "ands" else f"{registers}SP"
            texts = [f"{name} <{target}:rd>, <{registers}:rn>, {mask}"]
            if name == "orr":
                texts.insert(0, f"mov <{target}:rd>, <=31:rn><bitmask_{size}:{fields}>")
            if name == "ands":
                texts.insert(0, f"tst <=31:rd><{registers}:rn>, {mask}")
            flags = "nzcv" if name == "ands" else ""
            yield from rows(table, (f"{name}_imm.{size}", f"{head} immr:6 imms:6 {_PLAIN}", tuple(texts)), writes=flags)
            plain = head.replace("n:1", "0")
            yield from holes(table, *(f"{plain} immr:6 {imms} {_PLAIN}" for imms in reserved))
            if size == "x":
                yield from holes(table, f"{head.replace('n:1', '1')} immr:6 111111 {_PLAIN}")


def _bitfield() -> Iterator[Encoding]:
    table = "Bitfield"
    for size, r, head, imms, ones in (
        ("w", "W", "0 {opc} 100110 0 0 immr:5 0", "imms:5", "11111"),
        ("x", "X", "1 {opc} 100110 1 immr:6", "imms:6", "111111"),
    ):
        zero = f"{head.replace('immr:5', '00000').replace('immr:6', '000000')}"
        for opc, prefix, shift in (("00", "s", "asr"), ("10", "u", "lsr")):
            both = f"<{r}:rd>, <{r}:rn>"
            texts = [
                f"{prefix}bfiz {both}, <insert_{size}:immr:imms>",
                f"{prefix}bfx {both}, <extract_{size}:immr:imms>",
                f"{prefix}bfm {both}, <imm:immr>, <imm:imms>",
            ]
            if prefix == "u":
                texts.insert(0, f"lsl {both}, <left_{size}:immr:imms>")
            name = f"{prefix}bfm"
            yield from rows(table, (f"{name}.{size}", f"{head.format(opc=opc)} {imms} {_PLAIN}", tuple(texts)))
            yield from rows(
                table,
                (f"{shift}_imm.{size}", f"{head.format(opc=opc)} {ones} {_PLAIN}",
                 (f"{shift} {both}, <imm:immr>", f"{name} {both}, <imm:immr>, #{int(ones, 2)}")),
                families=name,
            )  # fmt: skip
            for letter, last in (("b", 7), ("h", 15), ("w", 31)):
                if (prefix == "u" and size == "x") or (letter == "w" and size == "w"):
                    continue
                bits = f"{last:0{len(ones)}b}"
                yield from rows(
                    table,
                    (f"{prefix}xt{letter}.{size}", f"{zero.format(opc=opc)} {bits} {_PLAIN}",
                     f"{prefix}xt{letter} <{r}:rd>, <W:rn>"),
                    families=name,
                )  # fmt: skip
        moves = (
            f"bfc <{r}:rd>, <=31:rn><insert_{size}:immr:imms>",
            f"bfi <{r}:rd>, <{r}:rn>, <insert_{size}:immr:imms>",
            f"bfxil <{r}:rd>, <{r}:rn>, <extract_{size}:immr:imms>",
            f"bfm <{r}:rd>, <{r}:rn>, <imm:immr>, <imm:imms>",
        )  # fmt: skip
        yield from rows(table, (f"bfm.{size}", f"{head.format(opc='01')} {imms} {_PLAIN}", moves), reads="rd")
    table = "Extract"
    for size, r, pattern in (("w", "W", "0 00 100111 00 rm:5 0 imms:5"), ("x", "X", "1 00 100111 10 rm:5 imms:6")):
        spellings = (
            f"ror <{r}:rd>, <{r}=:rn:rm>, <imm:imms>",
            f"extr <{r}:rd>, <{r}:rn>, <{r}:rm>, <imm:imms>",
        )  # fmt: skip
        yield from rows(table, (f"extr.{size}", f"{pattern} {_PLAIN}", spellings))


def _shifted() -> Iterator[Encoding]:
    for size, r, sf, amount in (("w", "W", "0", "0 imm6:5"), ("x", "X", "1", "imm6:6")):
        shifted = f"<{r}:rm>{{, <shift:shift:imm6>}}"
        table = "Logical (shifted register)"
        for name, opc, n in (
            ("and", "00", "0"), ("bic", "00", "1"), ("orr", "01", "0"), ("orn", "01", "1"),
            ("eor", "10", "0"), ("eon", "10", "1"), ("ands", "11", "0"), ("bics", "11", "1"),
        ):  # fmt: skip
            texts = [f"{name} <{r}:rd>, <{r}:rn>, {shifted}"]
            if name == "orr":
                texts.insert(0, f"mov <{r}:rd>, <=31:rn><=0:shift><=0:imm6><{r}:rm>")
            elif name == "orn":
                texts.insert(0, f"mvn <{r}:rd>, <=31:rn>{shifted}")
            elif name == "ands":
                texts.insert(0, f"tst <=31:rd><{r}:rn>, {shifted}")
            pattern = f"{sf} {opc} 01010 shift:2 {n} rm:5 {amount} {_PLAIN}"
            yield from rows(table, (f"{name}.{size}", pattern, tuple(texts)), writes="nzcv" if opc == "11" else "")
        table = "Add/subtract (shifted register)"
        for name, op in (("add", "0"), ("sub", "1")):
            for flags, s in (("", "0"), ("s", "1")):
                texts = [f"{name}{flags} <{r}:rd>, <{r}:rn>, {shifted}"]
                if name == "sub":
                    texts.insert(0, f"neg{flags} <{r}:rd>, <=31:rn>{shifted}")
                if flags:
                    texts.insert(0, f"{'cmp' if name == 'sub' else 'cmn'} <=31:rd><{r}:rn>, {shifted}")
                head = f"{sf} {op} {s} 01011"
                yield from rows(
                    table, (f"{name}{flags}.{size}", f"{head} shift:2 0 rm:5 {amount} {_PLAIN}", tuple(texts)),
                    writes="nzcv" if flags else "",
                )  # fmt: skip
                yield from holes(table, f"{head} 11 0 rm:5 {amount} {_PLAIN}")


def _extended() -> Iterator[Encoding]:
    table = "Add/subtract (extended register)"
    for size, r, sf in (("w", "W", "0"), ("x", "X", "1")):
        for name, op in (("add", "0"), ("sub", "1")):
            for flags, s in (("", "0"), ("s", "1")):
                target = r if flags else f"{r}SP"
                looks = "rn" if flags else "rn:rd"
                extended = f"<extend_{size}:rm:option:imm3:{looks}>"
                texts = [f"{name}{flags} <{target}:rd>, <{r}SP:rn>, {extended}"]
                if flags:
                    texts.insert(0, f"{'cmp' if name == 'sub' else 'cmn'} <=31:rd><{r}SP:rn>, {extended}")
                head = f"{sf} {op} {s} 01011001 rm:5 option:3"
                yield from rows(
                    table, (f"{name}{flags}_ext.{size}", f"{head} imm3:3 {_PLAIN}", tuple(texts)),
                    writes="nzcv" if flags else "",
                )  # fmt: skip
                yield from holes(table, f"{head} 101 {_PLAIN}", f"{head} 11 l:1 {_PLAIN}")


def _carry_and_flags() -> Iterator[Encoding]:
    table = "Add/subtract (with carry)"
    three = "<R:sf:rd>, <R:sf:rn>, <R:sf:rm>"
    for flags, s in (("", "0"), ("s", "1")):
        yield from rows(
            table,
            (f"adc{flags}", f"sf:1 0 {s} 11010000 rm:5 000000 {_PLAIN}", f"adc{flags} {three}"),
            (f"sbc{flags}", f"sf:1 1 {s} 11010000 rm:5 000000 {_PLAIN}",
             (f"ngc{flags} <R:sf:rd>, <=31:rn><R:sf:rm>", f"sbc{flags} {three}")),
            reads="nzcv", writes="nzcv" if flags else "",
        )  # fmt: skip
    yield from rows(
        "Add/subtract (checked pointer)",
        ("addpt", f"10011010000 rm:5 001 imm3:3 {_PLAIN}", "addpt <XSP:rd>, <XSP:rn>, <X:rm>{, <lslopt:imm3>}"),
        ("subpt", f"11011010000 rm:5 001 imm3:3 {_PLAIN}", "subpt <XSP:rd>, <XSP:rn>, <X:rm>{, <lslopt:imm3>}"),
        feature="FEAT_CPA",
    )
    yield from rows(
        "Rotate right into flags",
        ("rmif", "10111010000 imm6:6 00001 rn:5 0 mask:4", "rmif <X:rn>, <imm:imm6>, <imm:mask>"),
        feature="FEAT_FlagM", reads="nzcv", writes="nzcv",
    )  # fmt: skip
    yield from rows(
        "Evaluate into flags",
        ("setf8", "00111010000 000000 0 0010 rn:5 01101", "setf8 <W:rn>"),
        ("setf16", "00111010000 000000 1 0010 rn:5 01101", "setf16 <W:rn>"),
        feature="FEAT_FlagM", reads="nzcv", writes="nzcv",
    )  # fmt: skip
    for name, op in (("ccmn", "0"), ("ccmp", "1")):
        yield from rows(
            "Conditional compare (register)",
            (f"{name}.register", f"sf:1 {op} 1 11010010 rm:5 cond:4 00 rn:5 0 nzcv:4",
             f"{name} <R:sf:rn>, <R:sf:rm>, <hex:nzcv>, <cond:cond>"),
            reads="nzcv", writes="nzcv",
        )  # fmt: skip
        yield from rows(
            "Conditional compare (immediate)",
            (f"{name}.immediate", f"sf:1 {op} 1 11010010 imm5:5 cond:4 10 rn:5 0 nzcv:4",
             f"{name} <R:sf:rn>, <hex:imm5>, <hex:nzcv>, <cond:cond>"),
            reads="nzcv", writes="nzcv",
        )  # fmt: skip
    for name, op, o2, set_alias, alias in (
        ("csel", "0", "00", "", ""), ("csinc", "0", "01", "cset", "cinc"), ("csinv", "1", "00", "csetm", "cinv"),
        ("csneg", "1", "01", "", "cneg"),
    ):  # fmt: skip
        texts = [f"{name} <R:sf:rd>, <R:sf:rn>, <R:sf:rm>, <cond:cond>"]
        if alias:
            texts.insert(0, f"{alias} <R:sf:rd>, <R=:sf:rn:rm>, <invcond:cond>")
        if set_alias:
            texts.insert(0, f"{set_alias} <R:sf:rd>, <=31:rn><=31:rm><invcond:cond>")
        pattern = f"sf:1 {op} 0 11010100 rm:5 cond:4 {o2} {_PLAIN}"
        yield from rows("Conditional select", (name, pattern, tuple(texts)), reads="nzcv")


def _one_source() -> Iterator[Encoding]:
    table = "Data-processing (1 source)"
    head = "1 0 11010110 00000"
    for name, opcode, feature in (
        ("rbit", "000000", ""), ("rev16", "000001", ""), ("clz", "000100", ""), ("cls", "000101", ""),
        ("ctz", "000110", "FEAT_CSSC"), ("cnt", "000111", "FEAT_CSSC"), ("abs", "001000", "FEAT_CSSC"),
    ):  # fmt: skip
        yield from rows(
            table, (name, f"sf:1 {head} {opcode} {_PLAIN}", f"{name} <R:sf:rd>, <R:sf:rn>"), feature=feature
        )
    yield from rows(
        table,
        ("rev.w", f"0 {head} 000010 {_PLAIN}", "rev <W:rd>, <W:rn>"),
        ("rev32", f"1 {head} 000010 {_PLAIN}", "rev32 <X:rd>, <X:rn>"),
        ("rev.x", f"1 {head} 000011 {_PLAIN}", ("rev <X:rd>, <X:rn>", "rev64 <X:rd>, <X:rn>")),
    )
    signing = "1 1 0 11010110 00001"
    for number, name in enumerate(("pacia", "pacib", "pacda", "pacdb", "autia", "autib", "autda", "autdb")):
        yield from rows(
            table,
            (name, f"{signing} 000 {number:03b} {_PLAIN}", f"{name} <X:rd>, <XSP:rn>"),
            (f"{name[:-1]}z{name[-1]}", f"{signing} 001 {number:03b} 11111 rd:5", f"{name[:-1]}z{name[-1]} <X:rd>"),
            feature="FEAT_PAuth",
            reads="rd",
        )
    yield from rows(
        table,
        ("xpaci", f"{signing} 010000 11111 rd:5", "xpaci <X:rd>"),
        ("xpacd", f"{signing} 010001 11111 rd:5", "xpacd <X:rd>"),
        feature="FEAT_PAuth",
        reads="rd",
    )
    fixed = (("pacnbiasppc", "100000"), ("pacnbibsppc", "100001"), ("pacia171615", "100010"), ("pacib171615", "100011"),
             ("paciasppc", "101000"), ("pacibsppc", "101001"), ("autia171615", "101110"),
             ("autib171615", "101111"))  # fmt: skip
    for name, opcode in fixed:
        reads, writes = ("x15 x16 x17", "x17") if name.endswith("171615") else ("x30 sp", "x30")
        lands = "c" if name in ("paciasppc", "pacibsppc") else ""
        yield from rows(
            table, (name, f"{signing} {opcode} 11111 11110", name),
            feature="FEAT_PAuth_LR", reads=reads, writes=writes, lands=lands,
        )  # fmt: skip
    yield from rows(
        table,
        ("autiasppcr", f"{signing} 100100 rn:5 11110", "autiasppcr <X:rn>"),
        ("autibsppcr", f"{signing} 100101 rn:5 11110", "autibsppcr <X:rn>"),
        feature="FEAT_PAuth_LR",
        reads="x30 sp",
        writes="x30",
    )
    yield from rows(
        "PC-rel. authentication",
        ("autiasppc", "11110011100 imm16:16 11111", "autiasppc <backlabel:imm16>"),
        ("autibsppc", "11110011101 imm16:16 11111", "autibsppc <backlabel:imm16>"),
        feature="FEAT_PAuth_LR",
        reads="x30 sp",
        writes="x30",
    )


def _two_sources() -> Iterator[Encoding]:
    table = "Data-processing (2 source)"
    three = "<R:sf:rd>, <R:sf:rn>, <R:sf:rm>"
    for name, opcode, feature in (
        ("udiv", "000010", ""), ("sdiv", "000011", ""), ("lslv", "001000", ""), ("lsrv", "001001", ""),
        ("asrv", "001010", ""), ("rorv", "001011", ""), ("smax", "011000", "FEAT_CSSC"),
        ("umax", "011001", "FEAT_CSSC"), ("smin", "011010", "FEAT_CSSC"), ("umin", "011011", "FEAT_CSSC"),
    ):  # fmt: skip
        texts = (
            (f"{name[:3]} {three}", f"{name} {three}")
            if name.endswith("v") and name[1] != "d"
            else (f"{name} {three}",)
        )
        if name in ("udiv", "sdiv"):
            texts = (f"{name} {three}",)
        yield from rows(table, (name, f"sf:1 0011010110 rm:5 {opcode} {_PLAIN}", texts), feature=feature)
    for letter, sz, sf, register in (
        ("b", "00", "0", "W"),
        ("h", "01", "0", "W"),
        ("w", "10", "0", "W"),
        ("x", "11", "1", "X"),
    ):
        for c, bit in (("", "0"), ("c", "1")):
            yield from rows(
                table,
                (f"crc32{c}{letter}", f"{sf} 0011010110 rm:5 010 {bit} {sz} {_PLAIN}",
                 f"crc32{c}{letter} <W:rd>, <W:rn>, <{register}:rm>"),
                feature="FEAT_CRC32",
            )  # fmt: skip
    yield from rows(
        table,
        ("subps", f"10111010110 rm:5 000000 {_PLAIN}",
         ("cmpp <=31:rd><XSP:rn>, <XSP:rm>", "subps <X:rd>, <XSP:rn>, <XSP:rm>")),
        feature="FEAT_MTE", writes="nzcv",
    )  # fmt: skip
    yield from rows(
        table,
        ("subp", f"10011010110 rm:5 000000 {_PLAIN}", "subp <X:rd>, <XSP:rn>, <XSP:rm>"),
        ("irg", f"10011010110 rm:5 000100 {_PLAIN}", "irg <XSP:rd>, <XSP:rn>{, <Xopt:rm>}"),
        ("gmi", f"10011010110 rm:5 000101 {_PLAIN}", "gmi <X:rd>, <XSP:rn>, <X:rm>"),
        feature="FEAT_MTE",
    )  # fmt: skip
    yield from rows(
        table, ("pacga", f"10011010110 rm:5 001100 {_PLAIN}", "pacga <X:rd>, <X:rn>, <XSP:rm>"), feature="FEAT_PAuth"
    )


def _three_sources() -> Iterator[Encoding]:
    table = "Data-processing (3 source)"
    factors = "<R:sf:rd>, <R:sf:rn>, <R:sf:rm>"
    for name, o0, alias in (("madd", "0", "mul"), ("msub", "1", "mneg")):
        yield from rows(
            table,
            (name, f"sf:1 0011011000 rm:5 {o0} ra:5 {_PLAIN}",
             (f"{alias} {factors}<=31:ra>", f"{name} {factors}, <R:sf:ra>")),
        )  # fmt: skip
    for prefix, bits in (("s", "001"), ("u", "101")):
        for name, o0, alias in (("addl", "0", "ull"), ("subl", "1", "negl")):
            name = f"{prefix}m{name}"
            yield from rows(
                table,
                (name, f"10011011 {bits} rm:5 {o0} ra:5 {_PLAIN}",
                 (f"{prefix}m{alias} <X:rd>, <W:rn>, <W:rm><=31:ra>", f"{name} <X:rd>, <W:rn>, <W:rm>, <X:ra>")),
            )  # fmt: skip
    yield from rows(
        table,
        ("smulh", f"10011011010 rm:5 0 11111 {_PLAIN}", "smulh <X:rd>, <X:rn>, <X:rm>"),
        ("umulh", f"10011011110 rm:5 0 11111 {_PLAIN}", "umulh <X:rd>, <X:rn>, <X:rm>"),
    )
    yield from rows(
        table,
        ("maddpt", f"10011011011 rm:5 0 ra:5 {_PLAIN}", "maddpt <X:rd>, <X:rn>, <X:rm>, <X:ra>"),
        ("msubpt", f"10011011011 rm:5 1 ra:5 {_PLAIN}", "msubpt <X:rd>, <X:rn>, <X:rm>, <X:ra>"),
        feature="FEAT_CPA",
    )


def table() -> Iterator[Encoding]:
    """The rows of this file."""
    for part in (_addresses, _movewide, _add_subtract_immediate, _logical_immediate, _bitfield, _shifted, _extended,
                 _carry_and_flags, _one_source, _two_sources, _three_sources):  # fmt: skip
        yield from part()

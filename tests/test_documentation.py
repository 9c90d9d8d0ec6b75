"""README.md, CONTRIBUTING.md and docs/*.md print what runs.

CHECKS says of each block of these pages (indented, fenced, or a table) what checks it: a function of this file, a test
elsewhere, or nothing, and then why. A block that is not listed there fails.
Read on: real/test_worked_example.py and real/test_live_tutorial.py, which do the same with Debian's kernel.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

import a64patch
from a64patch import a64
from a64patch.cli import schema
from a64patch.cli.main import COMMANDS
from a64patch.proof.asking import answers
from a64patch.proof.asking import read as read_protocol
from a64patch.protocols import PROTOCOLS
from docs.instructions import PAGE as GENERATED
from tests.support import ROOT, assemble, link
from tests.test_imports import MAY_IMPORT

README, CONTRIBUTING, EXAMPLE = "README.md", "CONTRIBUTING.md", "docs/worked-example.md"
PAGES = [
    README,
    CONTRIBUTING,
    *sorted(f"docs/{path.name}" for path in GENERATED.parent.glob("*.md") if path != GENERATED),
]
"""All pages but the one that scripts/reference makes: a64/test_reference_page.py checks that."""

_ELF_HEADER = 64  # bytes


@dataclass(frozen=True)
class Block:
    """Some lines of a page that are not prose, without their indent or fences, and where they begin."""

    line: int
    text: str


class Place:
    """A directory where the commands of one page are run, one after the other, as a new user would run them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "place"
        self.directory.mkdir()
        programs = directory / "bin"
        programs.mkdir()
        (programs / "a64patch").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m a64patch "$@"\n')
        (programs / "a64patch").chmod(0o755)
        self._environment = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "PYTHONUTF8": "1",
            "HOME": str(directory / "home"),
            "COLUMNS": "100",
        }

    def run(self, command: str) -> str:
        """What the command wrote to stdout and stderr, without blanks at the end of lines."""
        done = subprocess.run(
            ["bash", "-c", command], cwd=self.directory, env=self._environment, encoding="utf-8", check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        return "".join(f"{line.rstrip()}\n" for line in done.stdout.splitlines())

    def softdog(self) -> None:
        """A stand-in for Debian's softdog.ko: what docs/worked-example.md shows of it, assembled by GNU as."""
        if (self.directory / "softdog.ko").exists():
            return
        page = read(EXAMPLE)
        shown = re.findall(r"^    (0x\w+)  softdog_fire\+(0x\w+)  \w{8}    (.+)$", page, re.MULTILINE)
        build_id = re.search(r"^    Build-Id: (\w+)$", page, re.MULTILINE)
        assert shown
        assert build_id
        # Addresses in such a file are file offsets; GNU as writes .text behind the ELF header.
        offset = int(shown[0][1], 16)
        start = int(shown[0][0], 16) - offset - _ELF_HEADER
        source = f"""
            .section .note.gnu.build-id, "a", %note
            .word 4, {len(build_id[1]) // 2}, 3
            .asciz "GNU"
            .byte {", ".join(f"0x{byte:02x}" for byte in bytes.fromhex(build_id[1]))}
            .text
            .fill {start // 4}, 4, 0xd503201f
            .type softdog_fire, %function
            softdog_fire: .fill {offset // 4 - 1}, 4, 0xd503201f
            bl queue_work_on
            {"; ".join(text for _, _, text in shown)}
            ret
            .size softdog_fire, . - softdog_fire
        """
        module = assemble(source, self.directory / "softdog.ko")
        (self.directory / "softdog.ko.orig").write_bytes(module.read_bytes())

    def hello(self) -> None:
        """A program with a function main."""
        source = ".globl main\n.type main, %function\nmain: mov w0, #1\nmov w1, #2\nbl f\nf: ret\n"
        link(assemble(source, self.directory / "hello.o"), self.directory / "hello", "-e", "main")


@dataclass(frozen=True)
class Elsewhere:
    """Another test compares the block: FILE::NAME."""

    test: str


@dataclass(frozen=True)
class Nothing:
    """The block prints nothing that could be compared, and why."""

    reason: str


Check = Callable[[Block, Place], None] | Elsewhere | Nothing


# Checks


def alike(printed: str, shown: str) -> None:
    """Equal, but for milliseconds. On a page `…` stands for the rest of a line, and alone for one line or more."""
    printed, shown = (re.sub(r"(?<=searches, )\d+ ms", "N ms", text) for text in (printed, shown))
    if "…" not in shown:
        assert printed == shown
        return
    pattern = "".join(_PATTERNS.get(part, re.escape(part)) for part in re.split(r"((?m:^…\n)|…)", shown))
    assert re.fullmatch(pattern, printed), f"{shown}\nis not an extract of\n{printed}"


_PATTERNS = {"…\n": r"(?:.*\n)+?", "…": ".+"}


def commands(block: Block, place: Place) -> None:
    """Every command after a `$` prints what stands below it."""
    assert block.text.startswith("$ ")
    if ".ko" in block.text:
        place.softdog()
    for command, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block.text, re.MULTILINE):
        alike(place.run(command), shown)


def source_file(block: Block, place: Place) -> None:
    """The block is a file, whose first line names it."""
    found = re.match(r"/\* (\w+\.c) \*/\n", block.text)
    assert found
    (place.directory / found[1]).write_text(block.text, "utf-8")


def softdog_patch(block: Block, place: Place) -> None:
    """What `fmt` makes of the patch without words, counts and Build-Id is the patch."""
    place.softdog()
    draft = re.sub(r"^([ +-])[0-9a-f]{8}", r"\1????????", block.text, flags=re.MULTILINE)
    draft = re.sub(r"^Build-Id:.*\n\n", "", draft, flags=re.MULTILINE)
    draft = re.sub(r" -4 \+4 @@$", " @@", draft, flags=re.MULTILINE)
    assert draft.count("????????") == 7
    assert "Build-Id" not in draft
    assert " -4" not in draft
    (place.directory / "draft.patch").write_text(draft, "utf-8")
    (place.directory / "grace.patch").write_text(block.text, "utf-8")
    assert place.run("a64patch fmt draft.patch softdog.ko") == block.text


def words(block: Block, _: Place) -> None:
    """Each word is that of its text (its mnemonic, where the text names a symbol), and addresses count by four.

    Only a machine with the right kernel prints all of this: the test elsewhere compares it.
    """
    found = re.findall(r"^(?:0x(\w+)  \S+\+0x(\w+)  |[ +-])([0-9a-f]{8}) [ *r]? *(\S+)(.*)$", block.text, re.MULTILINE)
    assert found
    for address, offset, word, mnemonic, operands in found:
        printed = a64.disassemble(int(word, 16)).split(maxsplit=1)
        assert printed[0] == mnemonic
        assert printed[1] == operands.strip() or re.fullmatch(r"[a-z]\w+_\w+", operands.strip())
        if address:
            assert int(address, 16) - int(found[0][0], 16) == int(offset, 16) - int(found[0][1], 16)
    listed = [int(address, 16) for address, *_ in found if address]
    assert listed == [listed[0] + 4 * index for index in range(len(listed))] if listed else True


def python(block: Block, place: Place) -> None:
    """Every `print` prints the comment behind it."""
    place.hello()
    (place.directory / "snippet.py").write_text(block.text, "utf-8")
    shown = re.findall(r"print\(.*\)  # (.*)$", block.text, re.MULTILINE)
    assert len(shown) == block.text.count("print(")
    assert place.run(f"'{sys.executable}' snippet.py").splitlines() == shown


def protocol_file(block: Block, _: Place) -> None:
    """The block is a protocol file, and each answer is as it says."""
    found = list(answers(read_protocol(block.text, "page.protocol")))
    assert [answer.verdict.value for answer in found] == [answer.ask.expected for answer in found]


def scripts(block: Block, _: Place) -> None:
    """The scripts are there. They install packages: nobody compares what that prints."""
    for line in block.text.splitlines():
        assert os.access(ROOT / line.split()[0], os.X_OK)


def usage(block: Block, _: Place) -> None:
    """All commands, with all their positional arguments and with options as their parsers know them.

    `…` stands behind a command that has more options, apart from those of all commands and of all targets.
    """
    lines = re.findall(r"^a64patch (\w+) +(.*)$", block.text, re.MULTILINE)
    assert sorted(name for name, _ in lines) == sorted(COMMANDS)
    for name, line in lines:
        synopsis = re.split(r"  +", line)[0]
        parser = parser_of(name)
        positionals = [action for action in parser._actions if not action.option_strings]
        options = {text: action for action in parser._actions for text in action.option_strings}
        named = re.findall(r"\[(-[^\]]*)\]|(?<!\[)(--\S+ [^\s\[]+)", synopsis)
        for given, *values in ("".join(each).split() for each in named):
            assert values == _values(options[given]), f"{name} {given}"
        rest = re.sub(r"\[-[^\]]*\]|--\S+ [^\s\[]+| …$", " ", synopsis)
        assert rest.split() == [_positional(action) for action in positionals], name
        said = {options["".join(each).split()[0]] for each in named}
        left_out = {action.dest for action in options.values() if action not in said}
        assert synopsis.endswith(" …") == bool(left_out - {"remote", "symbols", "caves", "journal"}), (
            f"{name}: {left_out}"
        )


def parser_of(name: str) -> argparse.ArgumentParser:
    """The arguments of a command, without those that all commands have."""
    parser = argparse.ArgumentParser(add_help=False)
    importlib.import_module(f"a64patch.cli.{name}").add_arguments(parser)
    return parser


def _values(action: argparse.Action) -> list[str]:
    if action.nargs == 0:
        return []
    return ["|".join(action.choices) if action.choices else str(action.metavar or action.dest.upper())]


def _positional(action: argparse.Action) -> str:
    name = str(action.metavar)
    return f"[{name}]" if action.nargs == "?" else f"{name}…" if action.nargs == "+" else name


_BESIDE = ("applying", "errors", "oneline", "openers", "protocols", "questions", "ranges", "version")
"""Files beside the rooms."""


def rooms(block: Block, _: Place) -> None:
    """The table of who may import what is that of test_imports.py."""
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.text.splitlines()[2:]]
    above: list[str] = []
    for room, _what, may in table:
        name = room.strip("`/")
        allowed = set(MAY_IMPORT[name]) - {name, *_BESIDE}
        if may in ("the rooms above", "everything"):
            assert allowed == set(above), room
        else:
            assert allowed == {each.strip("/").replace("/", ".") for each in re.findall("`(.*?)`", may)}, room
            assert (may == "nobody") == (not allowed)
        above.append(name)
    assert above == [name for name in MAY_IMPORT if not name.startswith("__") and name not in _BESIDE]


def every_room(block: Block, _: Place) -> None:
    """Each room and each file beside them is in the table, with a file to start at that it has."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.text.splitlines()[2:]]
    assert {row[0].strip("`") for row in rows} == {
        f"{name}/" if (ROOT / "src/a64patch" / name).is_dir() else f"{name}.py"
        for name in MAY_IMPORT
        if not name.startswith("__") and name not in ("errors", "oneline", "ranges", "version")
    }
    for room, _what, start in rows:
        for name in re.findall(r"`(\w+\.py)`", start):
            assert (ROOT / "src/a64patch" / room.strip("`") / name).is_file(), name


def json_documents(block: Block, _: Place) -> None:
    """Each command is in the table, with the objects that it prints by schema.py."""
    shown: dict[str, list[str]] = {}
    for command, kinds in schema.DOCUMENTS.items():
        shown.setdefault(" or ".join(map(_kind, kinds)), []).append(f"`{command}`")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.text.splitlines()[2:]]
    assert rows == [[", ".join(names), kinds] for kinds, names in shown.items()]


def _kind(kind: str | tuple[str, ...]) -> str:
    return kind if isinstance(kind, str) else f"a list of {' or '.join(kind)}"


def json_objects(block: Block, _: Place) -> None:
    """Each object of schema.py is in the table, with its fields."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.text.splitlines()[2:]]
    assert rows == [
        [name, ", ".join(f"`{field}`" for field in fields.split())] for name, fields in schema.OBJECTS.items()
    ]


def json_fields(block: Block, _: Place) -> None:
    """Each field of schema.py is in the table, with its type and what it says."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.text.splitlines()[2:]]
    assert rows == [[f"`{name}`", schema.type_of(form), says] for name, (form, says) in schema.FIELDS.items()]


def names_for_python(block: Block, _: Place) -> None:
    """Every name of the package is in the table, with parameters that it has and with commands that exist."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.text.splitlines()[2:]]
    found: dict[str, str] = {}
    for names, _what, commands_of in rows:
        found |= dict(re.findall(r"`(\w+)(?:\((.*?)\))?`", names))
        for command in re.findall("`([a-z]+)", commands_of):
            assert command in COMMANDS
    assert found.keys() == {*a64patch.__all__} - {"A64PatchError", "__version__"}
    for name, given in found.items():
        known = list(inspect.signature(getattr(a64patch, name)).parameters) if given else []
        for place, parameter in enumerate(given.split(", ") if given else ()):
            keyword, equals, _ellipsis = parameter.partition("=")
            assert keyword in known if equals else place < len(known), f"{name}: {parameter}"


def good_generator(block: Block, _: Place) -> None:
    """The function is the real one."""
    assert inspect.getsource(a64.gen_branch_imm).startswith(block.text)


def bad_generator(block: Block, _: Place) -> None:
    """It does what the page says of it: a branch forward by 128 MiB becomes one backward."""
    names: dict[str, Callable[..., int]] = {}
    exec(block.text, names)
    assert a64.disassemble(names["genBr"](0x10000000, 0x10000008), 0x10000000) == "b 0x10000008"
    assert a64.disassemble(names["genBr"](0x10000000, 0x18000000), 0x10000000) == "b 0x8000000"


def good_test(block: Block, _: Place) -> None:
    """The test has its place."""
    assert block.text.removesuffix(" ...\n") in (ROOT / "tests/patch/test_text.py").read_text("utf-8")


_TUTORIAL = Elsewhere("tests/real/test_live_tutorial.py::test_the_tutorial")
_PROCESSES = Elsewhere("tests/real/test_processes_page.py::test_the_page")
_KEYS = Elsewhere("tests/real/test_live_keys.py::test_the_page")
_OMISSIONS = Elsewhere("tests/proof/test_cases.py::test_what_each_step_is_for")

CHECKS: dict[str, dict[str, Check | tuple[Check, ...]]] = {
    README: {
        "softdog: give an orderly reboot": softdog_patch,
        "scripts/demo ": scripts,
        "$ a64patch demo": commands,
        "a64patch show ": usage,
        "$ a64patch show softdog.ko": commands,
        "$ a64patch prove ": commands,
        "import a64patch": python,
        "from a64patch import a64": python,
    },
    CONTRIBUTING: {
        "| room |": rooms,
        "Refuse words that a relocation owns": Nothing("an example of a commit message"),
        "Fix bug in elf.py": Nothing("an example of a bad commit message"),
        "def gen_branch_imm": good_generator,
        "def genBr": bad_generator,
        "def test_a_word_that_changes": good_test,
        "def test_encode": Nothing("an example of a bad test"),
    },
    "docs/proof.md": {
        **{f"| {protocol} without |": _OMISSIONS for protocol in PROTOCOLS},
        "| kernel | who writes |": Elsewhere(
            "tests/real/test_kernel_sequence.py::test_debians_kernel_patches_its_text_as_the_page_says"
        ),
        "data pointer": protocol_file,
        "| protocol | source |": Elsewhere(
            "tests/proof/test_protocol_files.py::test_the_page_lists_each_shipped_protocol"
        ),
    },
    "docs/patch-format.md": {
        "Answer 0 for the idle time": Elsewhere("tests/patch/test_docs.py::test_examples_are_canonical_and_true"),
        "patch       = ": Nothing("a grammar; tests/patch/test_asmdiff.py tries what `parse` takes and refuses"),
        "Give -1 for a name": Elsewhere("tests/patch/test_docs.py::test_examples_are_canonical_and_true"),
        "| State |": Elsewhere("tests/patch/test_docs.py::test_states_are_all_listed"),
        "| Name |": Elsewhere("tests/patch/test_docs.py::test_hazards_are_all_listed_with_their_names"),
    },
    EXAMPLE: {
        "$ a64patch show softdog.ko": commands,
        "softdog: give an orderly reboot": softdog_patch,
        "$ a64patch apply grace.patch softdog.ko --dry-run": commands,
        "$ cp softdog.ko": commands,
        "$ a64patch poke softdog.ko": commands,
    },
    "docs/functions.md": {
        "/* server.c */": source_file,
        "/* fix.c */": source_file,
        "$ aarch64-linux-gnu-gcc": commands,
        "| what |": Nothing("reasons; linking/test_link.py and linking/test_registers.py refuse each"),
        "| job |": Nothing("`python -m benchmarks functions` prints them; CI has no peers"),
    },
    "docs/architecture.md": {"| room |": every_room},
    "docs/json.md": {
        "$ a64patch check ": commands,
        "| command |": json_documents,
        "| object |": json_objects,
        "| field |": json_fields,
        "| before |": Nothing("fields that no command prints any more"),
    },
    "docs/python.md": {"import a64patch": python, "| name |": names_for_python},
    "docs/static-keys.md": {
        "$ a64patch keys gdb+unix:stub --symbols": _KEYS,
        "$ a64patch show gdb+unix:stub": _KEYS,
        "$ a64patch keys gdb+unix:stub 0xffffbb90e3f7fad0 --symbols": _KEYS,
        "$ a64patch keys gdb+unix:stub 0xffffbb90e3f7fad0 --on": _KEYS,
        "| refused |": Nothing("reasons; tests/kernel/test_switching.py refuses each"),
    },
    "docs/processes.md": {
        "$ cat > till.c": _PROCESSES,
        "$ a64patch show pid:": _PROCESSES,
        "$ cat > draft": _PROCESSES,
        "$ a64patch apply fee.patch pid:$(pidof till)\n": _PROCESSES,
        "$ a64patch recover": _PROCESSES,
        "| reason |": Nothing("reasons; procfs.py gives each, and targets/test_threads.py asks as another user"),
    },
    "docs/live-kernel.md": {
        "| kernel | modules |": Nothing(
            "`python -m tests.real.kernels` prints it; CI boots the kernel of its release only"
        ),
        "$ sudo apt-get install": Nothing("installs packages; tests/real/packages.py gets the same ones without root"),
        "$ mkdir -p fs/bin": _TUTORIAL,
        "$ qemu-system-aarch64": _TUTORIAL,
        "# cat /proc/uptime": _TUTORIAL,
        "$ a64patch show gdb+unix:stub --target-info": _TUTORIAL,
        "$ a64patch show gdb+unix:stub uptime_proc_show": (_TUTORIAL, words),
        "$ cat > draft": (_TUTORIAL, words),
        "$ a64patch apply seconds.patch gdb+unix:stub --symbols kallsyms --dry-run": _TUTORIAL,
        "$ a64patch apply seconds.patch gdb+unix:stub --symbols kallsyms\napplied": _TUTORIAL,
        "| stub |": Nothing("what was found out about stubs"),
    },
}
"""By page and by how the first line of a block begins, what checks it."""


# Pages and their blocks


def read(page: str) -> str:
    """The text of a page."""
    return (ROOT / page).read_text("utf-8")


def blocks(text: str) -> Iterator[Block]:
    """All that Markdown shows word for word, fenced or indented by four, and tables."""
    lines = text.split("\n")
    number = 0
    while number < len(lines):
        start = number
        line = lines[number]
        if re.match("```|~~~", line):
            number = lines.index(line[:3], start + 1) + 1
            yield Block(start + 1, _joined(lines[start + 1 : number - 1]))
        elif line.startswith("    ") and not lines[number - 1].strip():
            while number < len(lines) and (not lines[number].strip() or lines[number].startswith("    ")):
                number += 1
            yield Block(start + 1, _joined([each[4:] for each in lines[start:number]]))
        elif line.startswith("|"):
            while lines[number].startswith("|"):
                number += 1
            yield Block(start + 1, _joined(lines[start:number]))
        else:
            # Other forms that Markdown has for code and tables would be overlooked.
            other = re.match(r"\s*(```|~~~|<pre|\||\t|:?-+:?\s*\|)", line)
            assert not other, f"line {number + 1}: write this block as others are"
            number += 1


def _joined(lines: Sequence[str]) -> str:
    return "\n".join(lines).rstrip("\n") + "\n"


def checks_of(page: str, block: Block) -> tuple[Check, ...]:
    """What is listed for a block: one entry, which may be of several checks. LookupError for none or many."""
    found = [check for begin, check in CHECKS.get(page, {}).items() if block.text.startswith(begin)]
    if len(found) != 1:
        raise LookupError(f"{page}:{block.line}: {len(found)} entries in CHECKS are for the block {block.text[:60]!r}")
    return found[0] if isinstance(found[0], tuple) else (found[0],)


# Tests


@pytest.mark.fresh("qemu-system-arm")
@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_what_runs(page: str, tmp_path: Path) -> None:
    place = Place(tmp_path)
    for block in blocks(read(page)):
        for check in checks_of(page, block):
            if isinstance(check, Elsewhere):
                file, _, name = check.test.partition("::")
                text = (ROOT / file).read_text("utf-8")
                assert f"def {name}(" in text
                assert page in text
            elif not isinstance(check, Nothing):
                try:
                    check(block, place)
                except AssertionError as error:
                    error.add_note(f"{page}:{block.line}")
                    raise


def test_every_check_has_its_block() -> None:
    assert set(CHECKS) == set(PAGES)
    for page, checks in CHECKS.items():
        texts = [block.text for block in blocks(read(page))]
        assert [begin for begin in checks if sum(text.startswith(begin) for text in texts) != 1] == [], page


@pytest.mark.parametrize(
    "text",
    [
        "Prose:\n\n    $ a64patch new\n",
        "- item\n\n        new\n",
        "```\nnew\n```\n",
        "~~~sh\nnew\n~~~\n",
        "| new |\n|-|\n",
    ],
)
def test_a_new_block_needs_an_entry(text: str) -> None:
    [block] = blocks(text)
    with pytest.raises(LookupError, match="0 entries"):
        checks_of(README, block)


@pytest.mark.parametrize(
    "text", ["- a\n\n  ```\n  new\n  ```\n", "<pre>new</pre>\n", "\tnew\n", "  | new |\n", "a | b\n--|--\n"]
)
def test_a_block_of_another_form_is_not_overlooked(text: str) -> None:
    with pytest.raises(AssertionError, match="write this block"):
        list(blocks(text))


@pytest.mark.parametrize(
    "shown", ["d503201f (44 searches, N ms)\n P1 holds\n4 P2\n", "d503201f …\n…\n4 P2\n", "…\n4 P2\n"]
)
def test_every_digit_counts_but_those_of_milliseconds(shown: str) -> None:
    printed = "d503201f (44 searches, 326 ms)\n P1 holds\n4 P2\n"
    alike(printed, shown.replace("N ms", "17 ms"))
    for place, letter in enumerate(shown):
        if letter.isdigit():
            with pytest.raises(AssertionError):
                alike(printed, f"{shown[:place]}{(int(letter) + 1) % 10}{shown[place + 1 :]}".replace("N ms", "17 ms"))


@pytest.mark.parametrize("shown", ["…\n", "a\n…\nb\n", "a\n…\n", "a …\n"])
def test_an_ellipsis_stands_for_something(shown: str) -> None:
    with pytest.raises(AssertionError):
        alike("" if shown == "…\n" else shown.replace("…\n", "").replace(" …", ""), shown)


@pytest.mark.parametrize("page", [page for page in PAGES if page != CONTRIBUTING])
def test_options_that_the_text_names_exist(page: str) -> None:
    known = {"--help", "--version", "--json"}
    for name in COMMANDS:
        known |= set(parser_of(name)._option_string_actions)
    prose = re.sub(r"(?ms)^```.*?^```$|^    .*?$", "", read(page))
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", prose)) <= known


@pytest.mark.parametrize("page", PAGES)
def test_links_and_paths_lead_somewhere(page: str) -> None:
    text = read(page)
    headings = re.findall("^#+ (.*)$", text, re.MULTILINE)
    anchors = {"#" + re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    for address in re.findall(r"\]\(([^)]*)\)", text):
        assert address in anchors or (ROOT / page).parent.joinpath(address).exists(), address
    for path in re.findall(r"`((?:docs|scripts|src|tests|benchmarks)/[\w/.-]*)`", text):
        assert (ROOT / path).exists() or ROOT / path == GENERATED, path

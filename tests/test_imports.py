"""Who may import whom: the order of the rooms, read from the source of the package.

Imports inside functions and under TYPE_CHECKING count too, and so do import_module() and __import__() with a literal.
"""

from __future__ import annotations

import ast
import importlib
import pydoc
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support import ROOT

PACKAGE = ROOT / "src/a64patch"

MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "errors": (),
    "oneline": (),
    "ranges": ("oneline",),
    "version": (),
    "protocols": (),
    "openers": ("errors", "targets"),
    "a64": ("errors", "a64"),
    "targets": ("errors", "oneline", "protocols", "ranges", "a64", "targets"),
    "patch": (
        "errors", "oneline", "protocols", "ranges", "a64", "targets.base", "targets.modules", "targets.section",
        "targets.symbols", "patch",
    ),
    "kernel": ("errors", "oneline", "protocols", "ranges", "a64", "targets", "patch", "kernel"),
    "linking": ("errors", "oneline", "ranges", "a64", "targets", "patch", "linking"),
    "proof": ("errors", "oneline", "protocols", "a64", "proof"),
    "applying": ("errors", "oneline", "openers", "targets.base", "targets.executing", "patch"),
    "questions": ("errors", "oneline", "protocols", "a64", "targets.base", "targets.section", "patch", "proof"),
    "__init__": (
        "errors", "protocols", "version", "openers", "applying", "questions", "a64", "targets", "patch", "kernel",
        "linking", "proof",
    ),
    "cli": (
        "errors", "protocols", "version", "openers", "applying", "questions", "a64", "targets", "patch", "kernel",
        "linking", "proof", "cli",
    ),
    "__main__": ("cli",),
}  # fmt: skip
"""For each room, or file beside the rooms: what it may import of a64patch."""


def violations(path: str, source: str) -> list[str]:
    """What a file at `path`, relative to the package, does that its room may not do."""
    room = path.split("/")[0].removesuffix(".py")
    tree = ast.parse(source)
    at_load = {id(node) for node in _executed_on_import(tree)}
    found = []
    for node in ast.walk(tree):
        for module in _imported(node, path):
            top, _, inside = module.partition(".")
            if top == "a64patch":
                if not any(f"{inside}.".startswith(f"{allowed}.") for allowed in MAY_IMPORT[room]):
                    found.append(f"{path}:{_line(node)}: {room} may not import {module}")
            elif top == "rich" and room != "cli":
                found.append(f"{path}:{_line(node)}: only cli may import rich")
            elif room == "a64" and top not in sys.stdlib_module_names and (top != "numpy" or id(node) in at_load):
                found.append(f"{path}:{_line(node)}: a64 may import {top} inside functions at most, if it is numpy")
        if room != "cli" and isinstance(node, ast.Name) and node.id == "print":
            found.append(f"{path}:{_line(node)}: only cli may print")
    return found


def _line(node: ast.AST) -> int:
    return getattr(node, "lineno", 0)


def _imported(node: ast.AST, path: str) -> Iterator[str]:
    """The full names that a node imports; `from x import y` counts as x.y, since y may be a module."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        package = ["a64patch", *path.split("/")[:-1]]
        start = package[: len(package) - node.level + 1] if node.level else []
        base = ".".join([*start, *([node.module] if node.module else [])])
        yield from (f"{base}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
        yield from (str(argument.value) for argument in node.args[:1] if isinstance(argument, ast.Constant))


def _executed_on_import(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test).split(".")[-1] == "TYPE_CHECKING":
            yield from (inner for branch in node.orelse for inner in (branch, *_executed_on_import(branch)))
            continue
        yield node
        yield from _executed_on_import(node)


def test_rooms_keep_their_order() -> None:
    files = {path.relative_to(PACKAGE).as_posix(): path for path in PACKAGE.rglob("*.py")}
    assert "a64/words.py" in files
    assert [found for name, path in sorted(files.items()) for found in violations(name, path.read_text("utf-8"))] == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("errors.py", "import a64patch.a64"),
        ("a64/words.py", "from a64patch.oneline import shown"),
        ("oneline.py", "from a64patch import errors"),
        ("version.py", "from a64patch import errors"),
        ("a64/words.py", "from a64patch.targets.base import Target"),
        ("a64/words.py", "from ..targets import base"),
        ("a64/words.py", "from a64patch import targets"),
        ("a64/words.py", "import a64patch"),
        ("a64/words.py", "import numpy"),
        ("a64/words.py", "try:\n    import numpy\nexcept ImportError:\n    pass"),
        ("a64/words.py", "if TYPE_CHECKING:\n    pass\nelse:\n    import numpy"),
        ("a64/words.py", "class A:\n    import numpy.typing"),
        ("a64/words.py", "def f():\n    import elftools"),
        ("targets/elf.py", "from a64patch.patch.text import patch_text"),
        ("targets/elf.py", "def f():\n    from a64patch.patch import text"),
        ("targets/elf.py", "if TYPE_CHECKING:\n    from a64patch.kernel import ftrace"),
        ("targets/elf.py", "import_module('a64patch.cli.main')"),
        ("targets/elf.py", "__import__('a64patch.cli.main')"),
        ("targets/elf.py", "from a64patch import open_target"),
        ("targets/elf.py", "import rich.console"),
        ("patch/text.py", "from a64patch.targets.simulator import Simulator"),
        ("patch/text.py", "from a64patch.targets import open_target"),
        ("patch/text.py", "from a64patch.targets.based import x"),
        ("patch/text.py", "from ..targets import gdb"),
        ("patch/text.py", "from a64patch.kernel import ftrace"),
        ("patch/text.py", "def f():\n    print(1)"),
        ("patch/text.py", "show = print"),
        ("kernel/ftrace.py", "from a64patch.proof import model"),
        ("kernel/ftrace.py", "from a64patch.cli import main"),
        ("proof/model.py", "from a64patch.targets.base import Target"),
        ("proof/model.py", "from a64patch.patch import text"),
        ("__init__.py", "from a64patch.cli.main import main"),
        ("__init__.py", "from .cli import main"),
        ("patch/plan.py", "from a64patch.questions import prove"),
        ("patch/plan.py", "from a64patch.applying import apply"),
        ("proof/prove.py", "from a64patch.questions import Asked"),
        ("applying.py", "from a64patch.proof import prove"),
        ("applying.py", "from a64patch.targets.simulator import Simulator"),
        ("applying.py", "from a64patch.cli.patching import read_patch"),
        ("questions.py", "from a64patch.cli import proving"),
        ("questions.py", "from a64patch.openers import open_target"),
        ("questions.py", "from a64patch.targets.gdb import open_gdb"),
    ],
)
def test_each_rule_can_fail(path: str, source: str) -> None:
    assert len(violations(path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("a64/words.py", "import struct\nfrom a64patch.errors import AlignmentError\nfrom . import fields"),
        ("a64/words.py", "if TYPE_CHECKING:\n    import numpy\ndef f():\n    import numpy"),
        (
            "targets/elf.py",
            "import elftools\nfrom a64patch.a64 import is_b\nfrom a64patch.targets.symbols import Space",
        ),
        ("patch/text.py", "import a64patch.targets.base\nfrom a64patch.targets import base\nfrom .plan import Plan"),
        ("patch/text.py", "from a64patch.targets.base import Target\nfrom ..targets.base import Target"),
        ("kernel/ftrace.py", "from a64patch.patch.text import patch_text\nfrom a64patch.targets import gdb"),
        ("proof/model.py", "from a64patch import a64, errors"),
        ("cli/show.py", "import rich\nfrom a64patch.proof import model\nprint(1)"),
        ("__main__.py", "from a64patch.cli.main import main"),
    ],
)
def test_what_is_allowed(path: str, source: str) -> None:
    assert violations(path, source) == []


def _loaded_by(statement: str) -> set[str]:
    program = f"import sys\n{statement}\nprint(*sys.modules)"
    return set(
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    )


def test_import_stays_light() -> None:
    loaded = {name.split(".")[0] for name in _loaded_by("import a64patch")}
    assert "a64patch" in loaded
    assert {"numpy", "rich", "unicorn", "elftools"}.isdisjoint(loaded)


def test_a_file_costs_the_same_however_it_is_imported() -> None:
    alone = _loaded_by("import a64patch.a64.words")
    assert _loaded_by("from a64patch.a64 import words") == alone
    assert {name for name in alone if name.startswith("a64patch")} == {
        "a64patch", "a64patch.errors", "a64patch.a64", "a64patch.a64.words",
    }  # fmt: skip
    assert {"typing", "re", "dataclasses", "numpy"}.isdisjoint(alone - _loaded_by("pass"))


def test_one_name_loads_the_file_that_it_is_of() -> None:
    loaded = _loaded_by("from a64patch.a64 import hotpatch_safe")
    assert "a64patch.a64.cmodx" in loaded
    assert {"a64patch.a64.generate", "a64patch.a64.assembler", "a64patch.a64.relocation"}.isdisjoint(loaded)


@pytest.mark.parametrize("package", ["a64patch", "a64patch.a64"])
def test_what_loads_late_is_listed(package: str) -> None:
    module = importlib.import_module(package)
    promised = _promised(package)
    assert promised <= set(module.__all__)
    assert set(module.__all__) <= set(dir(module))
    shown = pydoc.plain(pydoc.render_doc(module))
    for name in module.__all__:
        assert getattr(module, name) is not None
        assert name in shown
    taken: dict[str, object] = {}
    exec(f"from {package} import *", taken)
    assert promised <= taken.keys()


def _promised(package: str) -> set[str]:
    """The names that type checkers are told of."""
    path = PACKAGE.joinpath(*package.split(".")[1:], "__init__.py")
    [block] = [node for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, ast.If)]
    names = set()
    for node in block.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("a64patch"):
            for alias in node.names:
                file = importlib.import_module(node.module or "")
                own = [name for name in vars(file) if getattr(getattr(file, name), "__module__", "") == file.__name__]
                names.update(
                    [name for name in own if name[0] != "_"] if alias.name == "*" else [alias.asname or alias.name]
                )
    return names

"""A function of a linked program replaced with Patcherex2, by C that its clang compiles: COMPILER SOURCE NAME FILE."""

import sys
from pathlib import Path

from patcherex2 import ModifyFunctionPatch, Patcherex  # type: ignore[import-not-found] # In a folder of its own.

compiler, source, name, path = sys.argv[1:]
options = {"compile_opts": {"extra_compiler_flags": ["-O2", "-DFIXED", "-DSTORAGE=extern"]}}
program = Patcherex(path, target_opts={"compiler": compiler})
program.patches.append(ModifyFunctionPatch(name, Path(source).read_text(), **options))
program.apply_patches()
program.save_binary(path)

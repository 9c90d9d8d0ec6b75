"""What process.py does inside of the guest: each tool changes the same words of a running process, in turns.

Arguments: the number of threads, the number of words, rounds, rounds to warm up, and whether frida is there. The answer
is a line of JSON.
Read on: process_victim.c is the process, and measures for how long its threads were kept from running.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

VICTIM, FRIDA = "/opt/process_victim", "/opt/frida"
NOP, YIELD = "d503201f", "d503203f"
OURS, NOBODY = "a64patch", "nobody stops it"
_SECONDS = 300


def main() -> None:
    threads, count, rounds, unused, has_frida = map(int, sys.argv[1:])
    work = Path("/dev/shm/bench")
    work.mkdir(exist_ok=True)
    ways = _ways(work, count, bool(has_frida))
    told: dict[str, dict[str, list[float]]] = {name: {"elapsed": [], "delay": [], "window": []} for name in ways}
    failed: dict[str, str] = {}
    for number in range(unused + rounds):
        for name, command in ways.items():
            if name in failed:
                continue
            try:
                found = _once(command, threads, count)
            except (AssertionError, OSError, subprocess.SubprocessError) as error:
                failed[name] = f"{type(error).__name__}: {error}"
                continue
            for what, value in found.items() if number >= unused else ():
                told[name][what].append(value)
    print(json.dumps({"told": told, "failed": failed}))


def _ways(work: Path, count: int, has_frida: bool) -> dict[str, list[str]]:
    """The command line of each tool; PID stands for the number of the process."""
    start = _field()
    addresses = [start + 8 * index for index in range(count)]
    places, commands, patch = work / "places", work / "commands", work / "patch"
    places.write_text("".join(f"{address:x}\n" for address in addresses))
    lines = []
    for word, stands in ((NOP, True), (YIELD, False), (YIELD, True)):
        for address in addresses:
            place = f"{{unsigned int}}{address:#x}"
            lines += [f"if {place} != 0x{word}", "quit 1", "end"] if stands else [f"set var {place} = 0x{word}"]
    commands.write_text("\n".join([*lines, "detach", "quit 0", ""]))
    hunk = f"-{NOP}\n+{YIELD}\n {NOP}\n" * count
    patch.write_text(f"Change words.\n\n@@ field @@\n{hunk}")
    os.environ["PROCESS"] = f"{places} {NOP} {YIELD}"
    gdb = ["gdb", "-nx", "-batch", "-iex", "set debuginfod enabled off", "-p", "PID", "-x"]
    ways = {
        OURS: [
            *("a64patch", "apply", str(patch), "pid:PID", "--sync", "stop", "--retry", "20", "--json"),
            *("--journal", str(work / "journal")),
        ],
        "gdb -p, commands": [*gdb, str(commands)],
        "gdb -p, Python in gdb": [*gdb, "/opt/process_gdb.py"],
        NOBODY: ["sleep", "1"],
    }
    if has_frida:
        ways["frida"] = ["python3", "/opt/process_frida.py", "PID", str(places), NOP, YIELD]
    return ways


def _field() -> int:
    """The address of the function that changes."""
    from elftools.elf.elffile import ELFFile

    with open(VICTIM, "rb") as file:
        [symbol] = ELFFile(file).get_section_by_name(".symtab").get_symbol_by_name("field")
        return int(symbol["st_value"])


def _once(command: list[str], threads: int, count: int) -> dict[str, float]:
    """Milliseconds: the whole tool, the longest delay of a thread, and the window that a64patch tells."""
    pause = 500 if threads < 10 else 20_000
    with subprocess.Popen(
        [VICTIM, str(threads), str(pause)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as victim:
        assert victim.stdin is not None
        assert victim.stdout is not None
        try:
            victim.stdout.readline()
            time.sleep(0.5)
            victim.stdin.write("r")
            victim.stdin.flush()
            begun = time.perf_counter()
            done = subprocess.run(
                [word.replace("PID", str(victim.pid)) for word in command],
                env=os.environ | {"PYTHONPATH": FRIDA}, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                timeout=_SECONDS, check=False,
            )  # fmt: skip
            elapsed = time.perf_counter() - begun
            time.sleep(0.3)
            victim.stdin.write("?")
            victim.stdin.flush()
            longest, _, changed = map(int, victim.stdout.readline().split())
        finally:
            victim.kill()
    said = f"{command[0]} ended with {done.returncode}: {done.stdout[-300:]}{done.stderr[-300:]}"
    assert done.returncode == 0, said
    assert changed == (0 if command[0] == "sleep" else count), f"{changed} words are new; {said}"
    found = {"elapsed": elapsed * 1e3, "delay": longest / 1e6}
    if command[0] == "a64patch":
        document: dict[str, Any] = json.loads(done.stdout)
        found["window"] = document["stop_window_ns"] / 1e6
    return found


if __name__ == "__main__":
    main()

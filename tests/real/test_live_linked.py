"""A function that gcc compiled, linked into a running process of the guest, and taken out of it again."""

from __future__ import annotations

from pathlib import Path

from tests.real.userland import Userland
from tests.support import need, run

SERVER = r"""
#include <stdio.h>
#include <string.h>
#include <unistd.h>
static char name[8];
__attribute__((noinline)) int greet(const char *who)
{
    strcpy(name, strlen(who) < sizeof name ? who : "?");
    return printf("hello %s\n", name);
}
int main(int count, char **words)
{
    for (setvbuf(stdout, 0, _IOLBF, 0); greet(words[1]) > 0; usleep(20000))
        ;
}
"""
FIX = r"""
#include <stdio.h>
#include <string.h>
extern char name[8];
int greet(const char *who)
{
    if (strlen(who) > 3)
        return fprintf(stdout, "%zu letters are too many\n", strlen(who));
    strcpy(name, who);
    return printf("hello %s\n", name);
}
"""


REPLACE = """
import json, sys, a64patch

with a64patch.open_target(f"pid:{sys.argv[1]}") as target:
    linked = a64patch.link("/fix.o", target)
    outcome = a64patch.apply(linked.diff, target)
print(json.dumps([linked.replaced, outcome.entry]))
"""
PUT_BACK = """
import json, sys, a64patch

with a64patch.open_target(f"pid:{sys.argv[1]}") as target:
    print(json.dumps(a64patch.revert(int(sys.argv[2]), target).entry))
"""


def test_a_function_of_a_running_process(userland: Userland, tmp_path: Path) -> None:
    gcc = need("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu")
    run(gcc, "-O1", "-xc", "-", "-o", tmp_path / "server", stdin=SERVER)
    run(gcc, "-O1", "-fPIC", "-c", "-xc", "-", "-o", tmp_path / "fix.o", stdin=FIX)
    userland.put("/server", (tmp_path / "server").read_bytes())
    userland.put("/fix.o", (tmp_path / "fix.o").read_bytes())
    server = userland.start("/server Alice")

    def said() -> str:
        """A line of the server, written from now on."""
        return userland.output_of(
            f"n=$(wc -l <{server.log}); while test $(wc -l <{server.log}) -lt $((n + 2)); do sleep 0.1; done;"
            f" tail -n 2 {server.log} | head -n 1"
        )

    try:
        assert said() == "hello Alice\n"
        replaced, entry = userland.python(REPLACE, server.pid)
        assert replaced == {"greet": "greet"}
        assert said() == "5 letters are too many\n"
        userland.python(PUT_BACK, server.pid, entry)
        assert said() == "hello Alice\n"
    finally:
        userland.run(f"kill {server.pid}; rm -f /server /fix.o")

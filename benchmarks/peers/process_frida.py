"""Words of a process changed by the agent that frida puts into it: `process_frida.py PID LIST OLD NEW`."""

import sys
from pathlib import Path

import frida  # type: ignore[import-not-found] # In the guest only.

pid, places, old, new = sys.argv[1:]
addresses = Path(places).read_text().split()
session = frida.attach(int(pid))
script = session.create_script("""
    rpc.exports = {
        change(places, before, after) {
            for (const place of places) if (ptr(place).readU32() !== before) throw new Error('another old word');
            for (const place of places) Memory.patchCode(ptr(place), 4, code => { code.writeU32(after); });
            for (const place of places) if (ptr(place).readU32() !== after) throw new Error('another new word');
        }
    };
""")
script.load()
script.exports_sync.change([f"0x{address}" for address in addresses], int(old, 16), int(new, 16))
session.detach()

"""The least that any client can do: the packets of live.py's work, sent without waiting for an answer.

`python live_bare.py STUB LIST OLD NEW`. No library, no check of checksums, no care for a connection that is lost.
"""

import re
import socket
import sys
from pathlib import Path
from threading import Thread
from time import perf_counter

PACKET = re.compile(rb"\$([^#]*)#[0-9a-f]{2}")


def frame(text: bytes) -> bytes:
    return b"$%b#%02x" % (text, sum(text) & 255)


def ask(stub: socket.socket, texts: list[bytes]) -> list[bytes]:
    """The answer to each packet; none waits for an answer to another, and all are acknowledged together.

    A thread sends: a stub whose answers nobody takes does not read on, and both would wait for ever.
    """
    sender = Thread(target=stub.sendall, args=(b"".join(map(frame, texts)),))
    sender.start()
    received, found = b"", list[bytes]()
    while len(found) < len(texts):
        received += stub.recv(1 << 20)
        place = 0
        for match in PACKET.finditer(received):
            found.append(match[1])
            place = match.end()
        received = received[place:]
    sender.join()
    stub.sendall(b"+" * len(texts))
    return found


def drain(stub: socket.socket) -> None:
    """Take all that comes until nothing has come for a while."""
    stub.settimeout(0.2)
    try:
        while stub.recv(1 << 20):
            pass
    except TimeoutError:
        pass
    stub.settimeout(None)


def main() -> None:
    path, places, old, new = sys.argv[1:]
    addresses = [int(line, 16) for line in Path(places).read_text().split()]
    reads = [b"m%x,4" % address for address in addresses]
    olds, news = (int(word, 16).to_bytes(4, "little").hex().encode() for word in (old, new))
    writes = [b"M%x,4:%b" % (address, news) for address in addresses]
    with socket.socket(socket.AF_UNIX) as stub:
        stub.connect(path)
        # QEMU before 8.1 says unasked that it has stopped.
        stub.sendall(b"+" + frame(b"qSupported"))
        drain(stub)
        stub.sendall(b"+" + frame(b"c"))
        drain(stub)
        stub.sendall(b"\x03")
        drain(stub)
        stub.sendall(b"+")
        begun = perf_counter()
        found = [set(ask(stub, packets)) for packets in (reads, writes, reads)]
        stub.sendall(frame(b"c"))
        print("window", perf_counter() - begun)
        drain(stub)
        stub.sendall(b"\x03")
        drain(stub)
        stub.sendall(b"+" + frame(b"D"))
        drain(stub)
    sys.exit(found != [{olds}, {b"OK"}, {news}])


main()

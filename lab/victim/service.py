"""A small HTTP service in three shapes: threads, loop, pool.

service.py KIND HOST WORKERS BACKLOG ACCEPT_EVERY LIVE_MIB [WORK...]
"""
import asyncio
import ctypes
import fcntl
import http.client
import mmap
import os
import re
import signal
import socket
import sys
import threading
import time

KIND, HOST, WORKERS, BACKLOG, SLOW, LIVE = sys.argv[1:7]
WORKERS, BACKLOG, LIVE = int(WORKERS), int(BACKLOG) or 128, int(LIVE)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: %s\r\n\r\nok\n"


def seconds(text):
    for unit, factor in (("ms", 1e-3), ("us", 1e-6), ("s", 1)):
        if text.endswith(unit):
            return float(text[: -len(unit)]) * factor
    return float(text)


def die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def step(spec):
    what, _, arg = spec.partition(":")
    if what in ("append", "fsync", "pipe"):
        fd = os.open(arg, os.O_WRONLY | (0 if what == "pipe" else os.O_CREAT | os.O_APPEND))
        line = b"GET / 200 " * 50 + b"\n"
        if what == "pipe":
            line = (b"GET / 200 " * 410)[:4095] + b"\n"

        def write():
            os.write(fd, line)
            if what == "fsync":
                os.fsync(fd)
        return write
    if what == "flock":
        def lock():
            with open(arg, "a") as f:
                fcntl.flock(f, fcntl.LOCK_EX)
        return lock
    if what == "compute":
        def compute(t=seconds(arg)):
            end = time.thread_time() + t
            while time.thread_time() < end:
                pass
        return compute
    if what == "sleep":
        return lambda t=seconds(arg): time.sleep(t)
    if what == "call":
        local = threading.local()

        def call():
            if not hasattr(local, "conn"):
                local.conn = http.client.HTTPConnection(arg)
            local.conn.request("GET", "/")
            local.conn.getresponse().read()
        return call
    if what == "fork":
        def run():
            while True:
                try:
                    pid = os.posix_spawn(arg, [arg], os.environ)
                    break
                except BlockingIOError:
                    time.sleep(0.02)
            os.waitpid(pid, 0)
        return run
    sys.exit("unknown work: " + spec)


WORK = [step(w) for w in sys.argv[7:]]
BALLAST = None
if LIVE:
    BALLAST = mmap.mmap(-1, LIVE << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    BALLAST.madvise(15)  # MADV_NOHUGEPAGE: a heap of ordinary pages
    for _ in range(LIVE):
        BALLAST.write(b"\1" * (1 << 20))


def regex(want):
    """Match a bad pattern that takes about so long: the classic mistake."""
    n, took = 18, 0.0
    while True:
        begin = time.perf_counter()
        re.match(r"(a+)+$", "a" * n + "!")
        took = time.perf_counter() - begin
        if took > 0.02:
            break
        n += 1
    while took * 2 < want:
        n, took = n + 1, took * 2
    return n


def forks(want):
    """Fork helpers one after the other, as a cron job inside a service does."""
    end = time.monotonic() + want
    while time.monotonic() < end:
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)


leak = []


def special(path):
    """Requests that the lab makes: what they do is the fault."""
    what, _, arg = path.strip("/").partition("/")
    if what == "sleep":
        time.sleep(float(arg))
    elif what == "fork":
        forks(float(arg))
    elif what == "regex":
        re.match(r"(a+)+$", "a" * int(arg) + "!")
    elif what == "grow":
        while True:
            leak.append(bytearray(os.urandom(1 << 20)))
    else:
        for work in WORK:
            work()


def serve(conn, once):
    with conn:
        conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        data = b""
        while True:
            while b"\r\n\r\n" not in data:
                try:
                    more = conn.recv(65536)
                except ConnectionError:
                    return
                if not more:
                    return
                data += more
            head, _, data = data.partition(b"\r\n\r\n")
            special(head.split(b" ")[1].decode())
            close = once or b"Connection: close" in head
            try:
                conn.sendall(OK % (b"close" if close else b"keep-alive"))
            except ConnectionError:
                return
            if close:
                return


def listen():
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((HOST, 0))
    s.listen(BACKLOG)
    return s


def ready(s, extra=""):
    print("ready %s:%d" % s.getsockname()[:2] + extra, flush=True)


def threads():
    s = listen()
    pause = [seconds(SLOW)]

    def control():
        for line in sys.stdin:
            pause[0] = seconds(line.strip())
    threading.Thread(target=control, daemon=True).start()
    ready(s)
    while True:
        conn, _ = s.accept()
        threading.Thread(target=serve, args=(conn, False), daemon=True).start()
        if pause[0]:
            time.sleep(pause[0])


def pool():
    s = listen()

    def worker():
        die_with_parent()
        while True:
            conn, _ = s.accept()
            serve(conn, True)

    def spawn():
        pid = os.fork()
        if pid == 0:
            worker()
            os._exit(0)
        return pid
    for _ in range(WORKERS):
        spawn()
    ready(s)
    while True:
        os.wait()
        time.sleep(seconds(SLOW))  # back off before a new worker
        spawn()


class Connection(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.data = transport, b""

    def data_received(self, more):
        self.data += more
        while b"\r\n\r\n" in self.data:
            head, _, self.data = self.data.partition(b"\r\n\r\n")
            special(head.split(b" ")[1].decode())
            close = b"Connection: close" in head
            self.transport.write(OK % (b"close" if close else b"keep-alive"))
            if close:
                self.transport.close()


async def loop():
    s = listen()
    server = await asyncio.get_running_loop().create_server(Connection, sock=s, backlog=BACKLOG)
    ready(s)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    if KIND == "loop":
        asyncio.run(loop())
    else:
        {"threads": threads, "pool": pool}[KIND]()

"""A small HTTP service in three shapes: threads, loop, pool.

service.py KIND HOST WORKERS BACKLOG ACCEPT_EVERY LIVE_MIB [WORK...]

HOST is an address, or unix:PATH. Each line on standard input is something that
goes wrong for a while: "sleep 800ms", see control().
"""
import asyncio
import ctypes
import errno
import fcntl
import gc
import hashlib
import http.client
import mmap
import os
import re
import signal
import socket
import struct
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


# Until when what happens, by time.monotonic(); workers share it.
TILL = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("d")
SLEEP, COMPUTE, ACCEPT = range(3)


def sleep_till(which):
    rest = TILL[which] - time.monotonic()
    if rest > 0:
        time.sleep(rest)


def till():
    """Sleep or compute for as long as control() was told."""
    sleep_till(SLEEP)
    while time.monotonic() < TILL[COMPUTE]:
        pass


LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
LIBC.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def many_maps(how, most, ended):
    """Hold memory in many maps until ended: pages of turning rights ("pages"), or one
    page of a file again and again ("segments"); in so many, or as many as may be."""
    page, none = mmap.PAGESIZE, ctypes.c_void_p(-1).value
    size = 1 << 30
    base = LIBC.mmap(None, size, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000, -1, 0)  # no rights, no reserve
    more = []
    with open(sys.argv[0], "rb") as f:
        def another(at, fixed):
            return LIBC.mmap(at, page, mmap.PROT_READ, mmap.MAP_SHARED | fixed, f.fileno(), 0)
        failed = False
        for done in range(0, most, 2 if how == "pages" else 1):
            if how == "pages":  # divides one map into three
                failed = LIBC.mprotect(base + (done + 1) * page, page, mmap.PROT_READ) != 0
            else:
                failed = another(base + done * page, 0x10) == none  # MAP_FIXED
            if failed:
                break
        while not ended.wait(0.002):
            # The last one, and what others give back meanwhile.
            while failed and (at := another(None, 0)) != none:
                more.append(at)
    for at in more:
        LIBC.munmap(at, page)
    LIBC.munmap(base, size)


def step(spec):
    what, _, arg = spec.partition(":")
    if what == "till":
        return till
    if what == "pair":
        # Two locks, in order: in the process, or of files where workers share them.
        if not arg:
            def pair():
                with A, B:
                    pass
            return pair

        def pair_of_files():
            with open(arg + ".a", "a") as a, open(arg + ".b", "a") as b:
                fcntl.flock(a, fcntl.LOCK_EX)
                fcntl.flock(b, fcntl.LOCK_EX)
        return pair_of_files
    if what == "heap":
        grow_heap(seconds(arg))
        return lambda: None
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
    if what == "nested":
        names = arg.split(",")

        def nested():
            held = []
            for name in names:
                held.append(open(name, "a"))
                fcntl.flock(held[-1], fcntl.LOCK_EX)
            for f in held:
                f.close()
        return nested
    if what == "resolve":
        host, _, port = arg.rpartition(":")

        def resolve():
            while True:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                    s.connect((host, int(port)))
                    s.settimeout(1)
                    ident = os.urandom(2)
                    s.send(ident + b"\x01\0\0\x01\0\0\0\0\0\0\x02db\x07example\0\0\x01\0\x01")
                    try:
                        if s.recv(1500)[:2] == ident:
                            return
                    except TimeoutError:
                        pass
        return resolve
    if what == "lookup":
        # libc's own resolver, with a resolv.conf that only this process has.
        if LIBC.unshare(0x20000) or LIBC.mount(b"none", b"/", None, 0x44000, None) or \
                LIBC.mount(arg.encode(), os.path.realpath("/etc/resolv.conf").encode(), None, 0x1000, None):
            raise OSError(ctypes.get_errno(), "a resolv.conf of its own")
        return lambda: socket.getaddrinfo("db.example.", 80, socket.AF_INET)
    if what == "send":
        host, _, port = arg.rpartition(":")
        local = threading.local()

        def send():
            if not hasattr(local, "conn"):
                local.conn = socket.socket()
                local.conn.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
                local.conn.connect((host, int(port)))
            local.conn.sendall(b"audit: " + b"x" * 8185)
        return send
    if what == "record":
        fd = os.open(arg, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

        def record():
            while True:
                try:
                    os.write(fd, b"order 4711 paid\n" * 32)
                    return
                except OSError as e:
                    if e.errno != errno.ENOSPC:
                        raise
                    time.sleep(0.02)
        return record
    if what == "ofd":
        # An open file description's lock; fcntl.fcntl waits without the interpreter's lock.
        fd = os.open(arg, os.O_RDWR | os.O_CREAT)

        def ofd():
            for kind in (fcntl.F_WRLCK, fcntl.F_UNLCK):
                fcntl.fcntl(fd, fcntl.F_OFD_SETLKW, struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 0, 0))
        return ofd
    if what == "map":
        def buffers(n=int(arg)):
            while n > 0:
                try:
                    mmap.mmap(-1, 64 << 10).close()
                    n -= 1
                except OSError as e:
                    if e.errno != errno.ENOMEM:
                        raise
                    time.sleep(0.02)
        return buffers
    if what == "watch":
        # Take what it needs to look for changes, trying until it can be had. No
        # watch: to close an instance that had one waits for an RCU grace period,
        # which on a busy machine takes longer than what is tested.
        def watch():
            while True:
                fd = LIBC.inotify_init1(os.O_CLOEXEC)
                if fd >= 0:
                    break
                if ctypes.get_errno() != errno.EMFILE:
                    raise OSError(ctypes.get_errno(), "inotify_init1")
                time.sleep(0.02)
            os.close(fd)
        return watch
    if what == "lock":
        def critical():
            with LOCK:
                pass
        return critical
    if what == "mutexes":
        def mutexes():
            with FIRST, SECOND:
                pass
        return mutexes
    if what == "locked":
        # Another step, by one thread at a time.
        inner = step(arg)

        def locked():
            with LOCK:
                inner()
        return locked
    if what == "token":
        # A login that is good for so long, by the wall clock, and takes so long.
        good, login = map(seconds, arg.split(","))
        until = [time.time() + good]

        def token():
            with LOCK:
                if time.time() > until[0]:
                    time.sleep(login)
                    until[0] = time.time() + good
        return token
    if what in ("dial", "post"):
        body = b"x" * 4000 if what == "post" else None
        local = threading.local()

        def ask():
            if body is None or not hasattr(local, "conn"):
                local.conn = http.client.HTTPConnection(arg)
            local.conn.request("POST" if body else "GET", "/", body)
            local.conn.getresponse().read()
            if body is None:
                local.conn.close()
        return ask
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


class Mutex:
    """A mutex of the C library: unlike Python's locks it says who owns it."""
    libc = ctypes.CDLL(None)

    def __init__(self):
        self.memory = (ctypes.c_uint32 * 16)()
        self.libc.pthread_mutex_init(self.memory, None)

    def __enter__(self):
        self.libc.pthread_mutex_lock(self.memory)

    def __exit__(self, *_):
        self.libc.pthread_mutex_unlock(self.memory)


def grow_heap(want):
    """Keep so many objects that looking at all of them takes about so long."""
    gc.disable()
    took = 0.0
    while took < want:
        HEAP.append([[] for _ in range(250_000)])
        begin = time.perf_counter()
        gc.collect()
        took = time.perf_counter() - begin
    gc.enable()


HEAP = []
LOCK, A, B = threading.Lock(), threading.Lock(), threading.Lock()
FIRST, SECOND = Mutex(), Mutex()
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


def total(want):
    """Add up numbers in one call, which never gives up the interpreter's lock."""
    begin = time.perf_counter()
    sum(range(1_000_000))
    sum(range(int(1_000_000 * want / (time.perf_counter() - begin))))


def protect(want):
    """Change the protection of the ballast to and fro, as a managed heap may."""
    libc = ctypes.CDLL(None, use_errno=True)
    begin = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(BALLAST)))
    end = time.monotonic() + want
    while time.monotonic() < end:
        for rights in (mmap.PROT_READ, mmap.PROT_READ | mmap.PROT_WRITE):
            if libc.mprotect(begin, ctypes.c_size_t(LIVE << 20), rights):
                raise OSError(ctypes.get_errno(), "mprotect")


def digest(want):
    """Derive a key in one call, which gives up the interpreter's lock and computes."""
    begin = time.perf_counter()
    hashlib.pbkdf2_hmac("sha256", b"order", b"4711", 20_000)
    hashlib.pbkdf2_hmac("sha256", b"order", b"4711", int(20_000 * want / (time.perf_counter() - begin)))


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
    elif what == "total":
        total(float(arg))
    elif what == "protect":
        protect(float(arg))
    elif what == "hold":
        with LOCK:
            time.sleep(float(arg))
    elif what == "digest":
        with LOCK:
            digest(float(arg))
    elif what == "both":
        with FIRST, SECOND:
            time.sleep(float(arg))
    elif what == "bothdigest":
        with FIRST, SECOND:
            digest(float(arg))
    elif what == "unmap":
        BALLAST.close()
    elif what == "cross":
        cross(float(arg))
    elif what == "grow":
        while True:
            leak.append(bytearray(os.urandom(1 << 20)))
    else:
        for work in WORK:
            work()


def deadlock(length):
    """Take B and then want A, while a request holds A and wants B; give up after so long."""
    pair = next((w[5:] for w in sys.argv[7:] if w.startswith("pair:")), "")
    if not pair:
        with B:
            while not A.locked():
                time.sleep(0.001)
            if A.acquire(timeout=length):
                A.release()
        return
    with open(pair + ".a", "a") as a, open(pair + ".b", "a") as b:
        fcntl.flock(b, fcntl.LOCK_EX)
        end = 0
        while not end or time.monotonic() < end:
            try:
                fcntl.flock(a, fcntl.LOCK_EX | fcntl.LOCK_NB)
                fcntl.flock(a, fcntl.LOCK_UN)
            except BlockingIOError:
                end = end or time.monotonic() + length
            time.sleep(0.001)


def cross(length):
    """Own SECOND and want FIRST, while a request owns FIRST and wants SECOND.

    Neither ever gives up: after so long another thread lets go of SECOND.
    """
    SECOND.__enter__()
    end = time.monotonic() + length
    while not FIRST.memory[0] and time.monotonic() < end:
        time.sleep(0.001)
    threading.Timer(length, SECOND.__exit__).start()
    with FIRST:
        pass


def control():
    pause = {"sleep": SLEEP, "compute": COMPUTE, "accept": ACCEPT}
    for line in sys.stdin:
        what, _, arg = line.strip().partition(" ")
        if what in pause:
            TILL[pause[what]] = time.monotonic() + seconds(arg)
        elif what == "hold":
            with LOCK:
                time.sleep(seconds(arg))
        elif what == "deadlock":
            deadlock(seconds(arg))
        elif what == "gc":
            gc.collect()
        elif what == "maps":
            how, most = arg.split()
            threading.Thread(target=many_maps, args=(how, int(most), ENDED), daemon=True).start()
        elif what == "watches":
            HELD.extend(LIBC.inotify_init1(os.O_CLOEXEC) for _ in range(int(arg)))
        elif what == "end":
            ENDED.set()
            while HELD:
                fd = HELD.pop()
                if fd >= 0:
                    os.close(fd)
        else:
            PAUSE[0] = seconds(what)


PAUSE = [seconds(SLOW)]  # after each accept
ENDED, HELD = threading.Event(), []


def serve(conn, once):
    with conn:
        if conn.family != socket.AF_UNIX:
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
    if HOST.startswith("unix:"):
        s = socket.socket(socket.AF_UNIX)
        s.bind(HOST[5:])
        s.listen(BACKLOG)
        return s
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((HOST, 0))
    s.listen(BACKLOG)
    return s


def ready(s):
    print("ready " + (HOST if s.family == socket.AF_UNIX else "%s:%d" % s.getsockname()[:2]), flush=True)
    if KIND == "threads" or "till" in sys.argv[7:]:
        threading.Thread(target=control, daemon=True).start()


def threads():
    s = listen()
    ready(s)
    while True:
        sleep_till(ACCEPT)
        try:
            conn, _ = s.accept()
        except OSError as e:
            if e.errno != errno.EMFILE:
                raise
            time.sleep(0.02)
            continue
        threading.Thread(target=serve, args=(conn, False), daemon=True).start()
        if PAUSE[0]:
            time.sleep(PAUSE[0])


def pool():
    s = listen()

    def worker():
        die_with_parent()
        while True:
            sleep_till(ACCEPT)
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
    events = asyncio.get_running_loop()
    create = events.create_unix_server if s.family == socket.AF_UNIX else events.create_server
    server = await create(Connection, sock=s, backlog=BACKLOG)
    ready(s)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    if KIND == "loop":
        asyncio.run(loop())
    else:
        {"threads": threads, "pool": pool}[KIND]()

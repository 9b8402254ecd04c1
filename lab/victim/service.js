// A small HTTP service on Node's event loop: service.js HOST [WORK...]
// HOST is an address, or unix:PATH.
// WORK for every request, in order: compute:MS of CPU, log:BYTES written to
// stdout, append:FILE, fsync:FILE, pipe:FIFO, call:ADDRESS (GET / of another
// service, without blocking), resolve:ADDRESS (a name there), lock (one that a thread may hold), till (what
// standard input said), heap:MS (so many objects, before it serves).
// Each line on standard input is something that goes wrong for a while:
// "sleep 800", "compute 800", "hold 800" (the lock) or "gc", in ms.
"use strict";
const fs = require("fs");
const http = require("http");
const threads = require("worker_threads");

const lock = new Int32Array(new SharedArrayBuffer(4));
const nobody = new Int32Array(new SharedArrayBuffer(4)); // to sleep on, as a blocking call does
const now = () => Number(process.hrtime.bigint()) / 1e6;
const until = { sleep: 0, compute: 0 };
const heap = [];

const steps = process.argv.slice(3).map((spec) => {
  const [what] = spec.split(":", 1);
  const arg = spec.slice(what.length + 1);
  const n = Number(arg);
  switch (what) {
    case "compute":
      return () => {
        const cpu = () => { const u = process.cpuUsage(); return u.user + u.system; };
        for (const end = cpu() + n * 1000; cpu() < end;);
      };
    case "log":
      return () => process.stdout.write("x".repeat(n - 1) + "\n");
    case "append":
    case "fsync": {
      const fd = fs.openSync(arg, "a");
      return () => {
        fs.writeSync(fd, "GET / 200 ".repeat(50) + "\n");
        if (what === "fsync") fs.fsyncSync(fd);
      };
    }
    case "pipe": {
      const fd = fs.openSync(arg, "w");
      const line = "GET / 200 ".repeat(410).slice(0, 4095) + "\n";
      return () => fs.writeSync(fd, line);
    }
    case "call": {
      const [host, port] = arg.split(":");
      const agent = new http.Agent({ keepAlive: true });
      return () => new Promise((resolve, reject) => {
        http.get({ host, port, agent }, (res) => res.resume().on("end", resolve)).on("error", reject);
      });
    }
    case "resolve": {
      // Tries again every second, as with "options timeout:1" in resolv.conf.
      const { Resolver } = require("dns").promises;
      return async () => {
        for (;;) {
          const resolver = new Resolver({ timeout: 1000, tries: 1 });
          resolver.setServers([arg]);
          try {
            return await resolver.resolve4("db.example");
          } catch (e) {
            if (e.code !== "ETIMEOUT") throw e;
          }
        }
      };
    }
    case "lock":
      return () => { while (Atomics.load(lock, 0)) Atomics.wait(lock, 0, 1); };
    case "till":
      return () => {
        if (until.sleep > now()) Atomics.wait(nobody, 0, 0, until.sleep - now());
        while (now() < until.compute);
      };
    case "heap":
      for (let took = 0; took < n;) {
        for (let i = 0; i < 250000; i++) heap.push({ i });
        const begin = now();
        gc();
        took = now() - begin;
      }
      return () => {};
  }
  throw new Error("unknown work: " + spec);
});

const server = http.createServer(async (req, res) => {
  const [, what, arg] = req.url.split("/");
  if (what === "regex") {
    /^(a+)+$/.test("a".repeat(Number(arg)) + "!");
  } else if (what === "json") {
    // A report over far too many rows, made in one go.
    const end = Date.now() + Number(arg);
    let n = 0;
    while (Date.now() < end) n += JSON.stringify(JSON.parse('{"rows":[1,2,3,{"a":"b"}]}')).length;
  } else if (what === "wait") {
    await new Promise((done) => setTimeout(done, Number(arg)));
  } else {
    for (const work of steps) {
      const waits = work();
      if (waits) await waits;
    }
  }
  res.end("ok\n");
});
server.keepAliveTimeout = 60000;

// A thread of its own holds the lock, so that the loop waits for a thread.
const holder = !process.argv.includes("lock") ? null : new threads.Worker(`
  const { parentPort, workerData: { lock, nobody } } = require("worker_threads");
  parentPort.on("message", (ms) => {
    Atomics.store(lock, 0, 1);
    Atomics.wait(nobody, 0, 0, ms);
    Atomics.store(lock, 0, 0);
    Atomics.notify(lock, 0);
  });`, { eval: true, workerData: { lock, nobody } });

if (process.argv.includes("till")) {
  process.stdin.setEncoding("utf8").on("data", (lines) => {
    for (const line of lines.trim().split("\n")) {
      const [what, arg] = line.split(" ");
      if (what === "hold") holder.postMessage(Number(arg));
      else if (what === "gc") gc();
      else until[what] = now() + Number(arg);
    }
  });
}

const host = process.argv[2];
if (host.startsWith("unix:")) {
  server.listen(host.slice(5), () => console.log("ready " + host));
} else {
  server.listen(0, host, () => {
    const a = server.address();
    console.log(`ready ${a.address}:${a.port}`);
  });
}

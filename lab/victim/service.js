// A small HTTP service on Node's event loop: service.js HOST [WORK...]
// WORK for every request: compute:MS of CPU, log:BYTES written to stdout.
"use strict";
const http = require("http");

const steps = process.argv.slice(3).map((spec) => {
  const [what, arg] = spec.split(":");
  const n = Number(arg);
  if (what === "compute") {
    return () => {
      const cpu = () => { const u = process.cpuUsage(); return u.user + u.system; };
      for (const end = cpu() + n * 1000; cpu() < end;);
    };
  }
  if (what === "log") return () => process.stdout.write("x".repeat(n - 1) + "\n");
  throw new Error("unknown work: " + spec);
});

const server = http.createServer((req, res) => {
  const [, what, arg] = req.url.split("/");
  if (what === "regex") {
    /^(a+)+$/.test("a".repeat(Number(arg)) + "!");
  } else if (what === "json") {
    // A report over far too many rows, made in one go.
    const end = Date.now() + Number(arg);
    let n = 0;
    while (Date.now() < end) n += JSON.stringify(JSON.parse('{"rows":[1,2,3,{"a":"b"}]}')).length;
  } else {
    for (const work of steps) work();
  }
  res.end("ok\n");
});
server.keepAliveTimeout = 60000;
server.listen(0, process.argv[2], () => {
  const a = server.address();
  console.log(`ready ${a.address}:${a.port}`);
});

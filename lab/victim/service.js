// A small HTTP service on Node's event loop: service.js HOST
"use strict";
const http = require("http");

const server = http.createServer((req, res) => {
  const [, what, arg] = req.url.split("/");
  if (what === "regex") {
    /^(a+)+$/.test("a".repeat(Number(arg)) + "!");
  } else if (what === "json") {
    // A report over far too many rows, made in one go.
    const end = Date.now() + Number(arg);
    let n = 0;
    while (Date.now() < end) n += JSON.stringify(JSON.parse('{"rows":[1,2,3,{"a":"b"}]}')).length;
  }
  res.end("ok\n");
});
server.keepAliveTimeout = 60000;
server.listen(0, process.argv[2], () => {
  const a = server.address();
  console.log(`ready ${a.address}:${a.port}`);
});

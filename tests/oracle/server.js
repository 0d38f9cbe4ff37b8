// A Node server that tells what it made of each connection.
//
//   node server.js '{"maxHeaderSize": 100, "maxHeadersCount": 3, "requireHostHeader": false}'
//
// First line out:  {"port": 40123, "version": "v26.10.0"}
// A line for each connection that has ended:
//   {"peer": 50321, "requests": 1, "error": {"code", "reason", "offset"} or null}
//             peer is the client's port; error is the first client error that the parser
//             raised; offset is its bytesParsed, counted from the connection's first byte,
//             and null where the error has no packet (the end of input).
// No listener for client errors is attached: what goes over the wire is Node's own answer.
// It ends at the end of its standard input.
'use strict';

const http = require('node:http');

const { maxHeadersCount, ...options } = JSON.parse(process.argv[2] ?? '{}');
const tell = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
const seen = new WeakMap(); // socket -> its line

// Answers a turn later, so that what breaks in the same read is seen to break first.
function answer(request, response) {
  request.on('end', () => setImmediate(() => response.end('ok\n'))).resume();
}

const server = http.createServer(options);
if (maxHeadersCount !== undefined) server.maxHeadersCount = maxHeadersCount;

server.on('request', (request, response) => {
  seen.get(request.socket).requests += 1;
  answer(request, response);
});
server.on('checkExpectation', (request, response) => {
  seen.get(request.socket).requests += 1;
  response.writeHead(417).end();
});
server.on('connect', (request, socket) => {
  seen.get(socket).requests += 1;
  socket.destroy(); // as without a listener
});

// The real emit still runs and finds no listener, so Node answers as it would alone.
const emit = server.emit;
server.emit = function (name, error, socket, ...rest) {
  if (name === 'clientError' && error.code !== 'ECONNRESET') {
    const line = seen.get(socket);
    const { code, reason, bytesParsed, rawPacket } = error;
    const offset = rawPacket ? socket.bytesRead - rawPacket.length + bytesParsed : null;
    line.error ??= { code, reason, offset };
  }
  return emit.call(this, name, error, socket, ...rest);
};

server.on('connection', (socket) => {
  const line = { peer: socket.remotePort, requests: 0, error: null };
  seen.set(socket, line);
  socket.on('close', () => tell(line));
});

server.listen(0, '127.0.0.1', () => {
  tell({ port: server.address().port, version: process.version });
});
process.stdin.on('end', () => process.exit(0)).resume();

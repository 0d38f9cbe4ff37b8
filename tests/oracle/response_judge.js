// Tells what Node's HTTP client makes of the bytes of a response.
//
//   node --expose-internals --no-warnings response_judge.js
//
// A line in:  JSON {"method": "GET", "reads": [base64, ...]}: the request that was sent, and
//             what comes back; each read is one execute() of a fresh parser, as one read of
//             a socket would be.
// A line out: JSON {"messages": [...], "error": {"code", "reason", "offset"} or null,
//             "end": index after the last byte of the response, or null}
//             Offsets count from the first byte of all.  An error of the end of input has
//             none.  Messages are any number of informational ones, and then one.
'use strict';

const readline = require('node:readline');
const { internalBinding } = require('internal/test/binding');
const { HTTPParser } = internalBinding('http_parser');

const NO_LIMIT = 1 << 30; // where a limit is crossed Node's verdict depends on the cut
const SKIP_BODY = 1;
const UPGRADE = 2;

function isInterim(status) {
  return status >= 100 && status < 200 && status !== 101;
}

// What parserOnIncomingClient of lib/_http_client.js answers.
function bodyFollows(method, status, upgrade) {
  if (method === 'CONNECT' || upgrade) return UPGRADE;
  return isInterim(status) || method === 'HEAD' || status === 304 ? SKIP_BODY : 0;
}

function judge(method, reads) {
  const messages = [];
  let open = null; // the message whose head is complete and whose end has not come
  let over = false; // whether the response has ended, or has become another protocol
  let flushed = []; // fields that came before the head was complete

  const parser = new HTTPParser();
  parser.initialize(HTTPParser.RESPONSE, {}, NO_LIMIT, 0);
  parser[HTTPParser.kOnMessageBegin] = () => {
    flushed = [];
  };
  parser[HTTPParser.kOnHeaders] = (fields) => {
    if (!over) (open === null ? flushed : open.trailers).push(...fields);
  };
  parser[HTTPParser.kOnHeadersComplete] = (
    major, minor, fields, _method, _target, status, reason, upgrade, keepAlive,
  ) => {
    if (over) return 0;
    const follows = bodyFollows(method, status, upgrade);
    open = {
      status,
      reason,
      version: `${major}.${minor}`,
      fields: fields ?? flushed,
      keepAlive,
      upgrade: follows === UPGRADE,
      body: '',
      trailers: [],
      complete: false,
    };
    messages.push(open);
    return follows;
  };
  parser[HTTPParser.kOnBody] = (chunk) => {
    if (!over) open.body += chunk.toString('latin1');
  };
  parser[HTTPParser.kOnMessageComplete] = () => {
    if (over) return;
    open.complete = true;
    over = open.upgrade || !isInterim(open.status);
    open = null;
  };

  let before = 0;
  for (const read of reads) {
    const verdict = parser.execute(read);
    if (over) return { messages, error: null, end: before + read.length };
    if (verdict instanceof Error) {
      const { code, reason, bytesParsed } = verdict;
      return { messages, error: { code, reason, offset: before + bytesParsed }, end: null };
    }
    before += read.length;
  }
  const { code, reason } = parser.finish() ?? {};
  const error = code === undefined ? null : { code, reason, offset: null };
  return { messages, error, end: over ? before : null };
}

// The end is the first byte after which all is complete: where every byte is a read.
function judgeWithEnd(method, reads) {
  const verdict = judge(method, reads);
  if (verdict.end !== null && verdict.messages.at(-1).complete) {
    const bytes = Buffer.concat(reads);
    verdict.end = judge(method, Array.from(bytes, (_, at) => bytes.subarray(at, at + 1))).end;
  }
  return verdict;
}

readline.createInterface({ input: process.stdin }).on('line', (line) => {
  const { method, reads } = JSON.parse(line);
  const verdict = judgeWithEnd(method, reads.map((read) => Buffer.from(read, 'base64')));
  process.stdout.write(`${JSON.stringify(verdict)}\n`);
});

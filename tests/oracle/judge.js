// Tells what Node's own HTTP parser (llhttp) makes of streams of bytes.
//
//   node --expose-internals --no-warnings judge.js [flag ...]
//
// A flag:     a constant of HTTPParser, such as kLenientHeaders; without one it is strict.
// A line in:  base64 segments with a space between; each is one execute() of a fresh
//             parser, as one read of a socket would be.
// A line out: JSON {"messages": [...], "error": {"code", "reason", "offset"} or null}
//             offset counts from the first byte of the stream: segments before it, plus
//             bytesParsed.  At the end of input inside a message it is null.
//             A request that asks for an upgrade ends the stream, and so does CONNECT.
'use strict';

const readline = require('node:readline');
const { internalBinding } = require('internal/test/binding');
const { HTTPParser, allMethods } = internalBinding('http_parser');

const NO_LIMIT = 1 << 30; // where a limit is crossed Node's verdict depends on the cut
const LENIENCE = process.argv.slice(2).reduce((flags, name) => flags | HTTPParser[name], 0);
const UPGRADE = 2; // as lib/_http_common.js answers kOnHeadersComplete

function judge(segments) {
  const messages = [];
  let open = null; // the message whose head is complete and whose end has not come
  let flushed = { fields: [], target: '' }; // what came before the head was complete

  const parser = new HTTPParser();
  parser.initialize(HTTPParser.REQUEST, {}, NO_LIMIT, LENIENCE);
  parser[HTTPParser.kOnMessageBegin] = () => {
    flushed = { fields: [], target: '' };
  };
  parser[HTTPParser.kOnHeaders] = (fields, target) => {
    if (open === null) {
      flushed.fields.push(...fields);
      flushed.target += target;
    } else {
      open.trailers.push(...fields);
    }
  };
  parser[HTTPParser.kOnHeadersComplete] = (
    major, minor, fields, method, target, status, statusText, upgrade, keepAlive,
  ) => {
    open = {
      method: allMethods[method],
      target: target ?? flushed.target,
      version: `${major}.${minor}`,
      fields: fields ?? flushed.fields,
      keepAlive,
      upgrade,
      body: '',
      trailers: [],
      complete: false,
    };
    messages.push(open);
    return upgrade ? UPGRADE : 0;
  };
  parser[HTTPParser.kOnBody] = (chunk) => {
    open.body += chunk.toString('latin1');
  };
  parser[HTTPParser.kOnMessageComplete] = () => {
    open.complete = true;
    open = null;
  };

  let before = 0;
  for (const segment of segments) {
    const verdict = parser.execute(segment);
    if (verdict instanceof Error) {
      const { code, reason, bytesParsed } = verdict;
      return { messages, error: { code, reason, offset: before + bytesParsed } };
    }
    if (messages.at(-1)?.upgrade) return { messages, error: null };
    before += segment.length;
  }
  const { code, reason } = parser.finish() ?? {};
  return { messages, error: code === undefined ? null : { code, reason, offset: null } };
}

readline.createInterface({ input: process.stdin }).on('line', (line) => {
  const segments = line.split(' ').map((segment) => Buffer.from(segment, 'base64'));
  process.stdout.write(`${JSON.stringify(judge(segments))}\n`);
});

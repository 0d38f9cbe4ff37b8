// Ask for the URLs in the arguments, one after the other, and print what Node's client says of each.
'use strict';
const http = require('node:http');

function ask(url) {
  return new Promise((resolve) => {
    const said = {};
    const request = http.get(url, { agent: false }, (response) => {
      said.status = response.statusCode;
      response.on('error', (error) => { said.body = { code: error.code, message: error.message }; });
      response.on('close', () => resolve(said));
      response.resume();
    });
    request.on('error', (error) => {
      said.request = { code: error.code, message: error.message };
      if (said.status === undefined) resolve(said);
    });
  });
}

(async () => {
  for (const url of process.argv.slice(2)) console.log(JSON.stringify(await ask(url)));
})();

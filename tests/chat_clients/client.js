// A member by npm's ws.
const WebSocket = require('ws');
const assert = require('assert');
const socket = new WebSocket(process.argv[2]);
const heard = [];
let wake = () => {};
socket.on('message', (data, isBinary) => {
  assert(!isBinary);
  heard.push(String(data));
  wake();
});
const next = async () => {
  while (!heard.length) await new Promise((resolve) => { wake = resolve; });
  return heard.shift();
};
socket.on('close', (code) => console.log(`closed ${code}`));
socket.on('open', async () => {
  assert.strictEqual(socket.extensions, '');
  socket.send('NAME: client');
  assert.strictEqual(await next(), 'CLIENT: 127.0.0.1');
  assert.strictEqual(await next(), '#line@127.0.0.1>>Grüße');
  for (const part of ['Grüße', ' zurück', '']) socket.send(part, { fin: part === '' });
  socket.send('/who');
  assert.strictEqual(await next(), '(2 here: line@127.0.0.1, client@127.0.0.1)');
  const pong = new Promise((resolve) => socket.once('pong', resolve));
  socket.ping('there?');
  assert.strictEqual(String(await pong), 'there?');
  socket.send('x'.repeat(65536));
  socket.send('/quit');
  assert.strictEqual(await next(), '(Goodbye)');
});

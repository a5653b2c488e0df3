// The part of the chat that the load uses, with npm's ws: a name, its announcement, and messages to all others. A message is
// encoded by ws for each member, as its documentation's broadcast has it.
const { WebSocketServer, WebSocket } = require('ws');
const server = new WebSocketServer({ host: '127.0.0.1', port: +process.argv[2], path: '/ws', perMessageDeflate: false, backlog: 4096 });

server.on('connection', (member) => {
  let name = '';
  const others = (text) => {
    server.clients.forEach((client) => {
      if (client !== member && client.readyState === WebSocket.OPEN) client.send(text);
    });
  };
  member.on('message', (data) => {
    const text = data.toString();
    if (name) return others(`#${name}@127.0.0.1>>${text}`);
    name = text.slice('NAME: '.length);
    member.send('CLIENT: 127.0.0.1');
    others(`(Connected: New client (${server.clients.size}) from ${name}@127.0.0.1)`);
  });
});

// node faye_peer.js PORT: Faye's server as its manual starts it.
'use strict';

const http = require('http');
const faye = require('faye');

const server = http.createServer();
server.keepAliveTimeout = 3600 * 1000;
new faye.NodeAdapter({ mount: '/faye', timeout: 120 }).attach(server);
server.listen({ port: Number(process.argv[2]), host: '127.0.0.1', backlog: 4096 });

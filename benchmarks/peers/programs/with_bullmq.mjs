// BullMQ: two processes of concurrency 200, completed jobs removed.
//
//   with_bullmq.mjs enqueue KIND COUNT one|many | probe COUNT PAUSE_S | work CONCURRENCY
//
// Node maps no files: a worker writes its count to its slot of the board every 5 ms, and a
// probe's stamp at once.
import fs from 'node:fs';
import { createRequire } from 'node:module';

const require = createRequire(process.env.PEER_MODULES + '/');
const { Queue, Worker } = require('bullmq');

const SLOTS = 512;
const PAYLOAD = 'x'.repeat(191);
const CHUNK = 1000;
const connection = { host: '127.0.0.1', port: Number(process.env.PEER_PORT) };
const board = fs.openSync(process.env.PEER_BOARD, 'r+');
const options = { removeOnComplete: true, removeOnFail: true };

function write(word, value) {
  const bytes = Buffer.alloc(8);
  bytes.writeBigInt64LE(BigInt(value));
  fs.writeSync(board, bytes, 0, 8, 8 * word);
}

function read(word) {
  const bytes = Buffer.alloc(8);
  fs.readSync(board, bytes, 0, 8, 8 * word);
  return bytes.readBigInt64LE();
}

function work(concurrency) {
  const slot = SLOTS - Number(process.env.PEER_NUMBER); // from the end: no claim is needed
  let done = 0;
  let written = 0;
  setInterval(() => {
    if (done !== written) write(slot, (written = done));
  }, 5);
  const handlers = {
    async: async () => {},
    sleep: () => new Promise((resolve) => setTimeout(resolve, 1)),
    probe: async (job) => write(1 + SLOTS + job.data.x, process.hrtime.bigint()),
  };
  const worker = new Worker(
    'peer',
    async (job) => {
      await handlers[job.name](job);
      done += 1;
    },
    { connection, concurrency },
  );
  process.on('SIGTERM', () => worker.close(true).then(() => process.exit(0)));
}

async function enqueue(queue, kind, count, how) {
  const began = process.hrtime.bigint();
  const cpu = process.cpuUsage();
  const data = { x: kind === 'probe' ? 0 : PAYLOAD };
  if (how === 'many') {
    for (let first = 0; first < count; first += CHUNK) {
      const size = Math.min(CHUNK, count - first);
      await queue.addBulk(Array.from({ length: size }, () => ({ name: kind, data, opts: options })));
    }
  } else {
    for (let index = 0; index < count; index += 1) await queue.add(kind, data, options);
  }
  const used = process.cpuUsage(cpu);
  return {
    seconds: Number(process.hrtime.bigint() - began) / 1e9,
    cpu_s: (used.user + used.system) / 1e6,
  };
}

async function probe(queue, count, pauseS) {
  const latencies = [];
  for (let index = 0; index < count; index += 1) {
    await new Promise((resolve) => setTimeout(resolve, pauseS * 1000));
    const sent = process.hrtime.bigint();
    await queue.add('probe', { x: index }, options);
    while (read(1 + SLOTS + index) === 0n) await new Promise((resolve) => setTimeout(resolve, 1));
    latencies.push(Number(read(1 + SLOTS + index) - sent) / 1e6);
  }
  return { latencies_ms: latencies };
}

const [verb, ...rest] = process.argv.slice(2);
if (verb === 'work') {
  work(Number(rest[0]));
} else {
  const queue = new Queue('peer', { connection });
  const answer =
    verb === 'enqueue'
      ? await enqueue(queue, rest[0], Number(rest[1]), rest[2])
      : await probe(queue, Number(rest[0]), Number(rest[1]));
  process.stdout.write(JSON.stringify(answer));
  await queue.close();
}

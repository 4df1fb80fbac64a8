// Run by node beside an installed @upstash/redis: node client.mjs URL TOKEN
import assert from "node:assert/strict";
import { Redis } from "@upstash/redis";

const redis = new Redis({ url: process.argv[2], token: process.argv[3], retry: false });

assert.equal(await redis.set("string", "välüe"), "OK");
assert.equal(await redis.get("string"), "välüe");
assert.equal(await redis.set("number", 41, { ex: 60 }), "OK");
assert.equal(await redis.incr("number"), 42);
assert.equal(await redis.get("nothing"), null);

assert.equal(await redis.hset("hash", { a: 1, b: "two" }), 2);
assert.deepEqual(await redis.hgetall("hash"), { a: 1, b: "two" });

assert.equal(await redis.zadd("zset", { score: 1, member: "one" }, { score: 0.5, member: "half" }), 2);
assert.deepEqual(await redis.zrange("zset", 0, -1, { withScores: true }), ["half", 0.5, "one", 1]);

const pipeline = redis.pipeline();
pipeline.set("counter", 1);
pipeline.incr("counter");
pipeline.get("counter");
assert.deepEqual(await pipeline.exec(), ["OK", 2, 2]);

const failing = redis.pipeline();
failing.set("p", 1);
failing.incr("hash");
failing.get("p");
const items = await failing.exec({ keepErrors: true });
assert.equal(items[0].result, "OK");
assert.match(items[1].error, /WRONGTYPE/);
assert.equal(items[2].result, 1);

const transaction = redis.multi();
transaction.set("t", 1);
transaction.incr("t");
assert.deepEqual(await transaction.exec(), ["OK", 2]);

assert.deepEqual(await redis.eval("return {KEYS[1], ARGV[1], 7}", ["k"], ["a"]), ["k", "a", 7]);

const awkward = "\u0000\u0001 \u2028 🐍 \\ \" / ' \n";
await redis.set("awkward", awkward);
assert.equal(await redis.get("awkward"), awkward);

const object = { nested: [1, "two", { three: null }] };
await redis.set("object", object);
assert.deepEqual(await redis.get("object"), object);

for (let number = 0; number < 30; number++) await redis.set(`scan:${number}`, number);
let cursor = "0";
const found = new Set();
do {
  const [next, keys] = await redis.scan(cursor, { match: "scan:*", count: 7 });
  keys.forEach((key) => found.add(key));
  cursor = next;
} while (cursor !== "0");
assert.equal(found.size, 30);

// The client gathers these into one pipeline by itself.
assert.deepEqual(await Promise.all([redis.get("p"), redis.incr("t"), redis.ping()]), [1, 3, "PONG"]);

await assert.rejects(redis.eval("return redis.error_reply('ERR mine')", [], []), /mine/);
console.log("all well");

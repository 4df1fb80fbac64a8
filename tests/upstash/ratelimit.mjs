// Run by node beside an installed @upstash/ratelimit and @upstash/redis: node ratelimit.mjs URL TOKEN
import assert from "node:assert/strict";
import { Redis } from "@upstash/redis";
import { MultiRegionRatelimit, Ratelimit } from "@upstash/ratelimit";

const redis = new Redis({ url: process.argv[2], token: process.argv[3], retry: false, enableTelemetry: false });
const started = Date.now();

async function limits(ratelimit, id, most) {
  const seen = [];
  for (let number = 0; number < most + 3; number++) {
    const answer = await ratelimit.limit(id);
    await answer.pending;
    assert.equal(answer.limit, most);
    seen.push(answer.success);
  }
  assert.deepEqual(seen, [...Array(most).fill(true), false, false, false]);
}

// Every algorithm, twice: what one process has sent as a script another one finds by its hash.
const algorithms = {
  fixed: Ratelimit.fixedWindow(5, "1 h"),
  sliding: Ratelimit.slidingWindow(5, "1 h"),
  bucket: Ratelimit.tokenBucket(5, "1 h", 5),
  cached: Ratelimit.cachedFixedWindow(5, "1 h"),
};
for (const [name, limiter] of Object.entries(algorithms)) {
  const ratelimit = new Ratelimit({ redis, limiter, prefix: `r:${name}`, ephemeralCache: name === "cached" ? new Map() : false });
  for (const id of ["one", "two"]) {
    assert.equal((await ratelimit.getRemaining(id)).remaining, 5);
    await limits(ratelimit, id, 5);
    assert.equal((await ratelimit.getRemaining(id)).remaining, 0);
  }
  await ratelimit.resetUsedTokens("one");
  assert.equal((await ratelimit.limit("one")).success, true);
  assert.equal((await ratelimit.limit("two")).success, false);
}

// Many at once: exactly as many as are allowed.
const crowded = new Ratelimit({ redis, limiter: Ratelimit.slidingWindow(10, "1 h"), prefix: "crowd", ephemeralCache: false });
const answers = await Promise.all(Array.from({ length: 40 }, () => crowded.limit("all")));
assert.equal(answers.filter((answer) => answer.success).length, 10);

// A rate, a limit that is set later, analytics, a list of the denied, waiting.
const rated = new Ratelimit({ redis, limiter: Ratelimit.fixedWindow(10, "1 h"), prefix: "rated" });
assert.equal((await rated.limit("id", { rate: 7 })).remaining, 3);
assert.equal((await rated.limit("id", { rate: 7 })).success, false);

const dynamic = new Ratelimit({ redis, limiter: Ratelimit.fixedWindow(2, "1 h"), prefix: "dynamic", dynamicLimits: true, ephemeralCache: false });
await dynamic.setDynamicLimit({ limit: 4 });
assert.deepEqual(await dynamic.getDynamicLimit(), { dynamicLimit: 4 });
await limits(dynamic, "id", 4);

const analytic = new Ratelimit({ redis, limiter: Ratelimit.fixedWindow(2, "1 h"), prefix: "analytic", analytics: true });
await limits(analytic, "id", 2);
assert.equal((await redis.keys("analytic:events:*")).length, 1);

const denying = new Ratelimit({ redis, limiter: Ratelimit.fixedWindow(9, "1 h"), prefix: "denying", enableProtection: true });
await redis.sadd("denying:denyList:all", "evil");
await redis.setex("denying:ipDenyListStatus", 1000, "valid");
const denied = await denying.limit("id", { ip: "evil" });
assert.deepEqual([denied.success, denied.reason, denied.deniedValue], [false, "denyList", "evil"]);
assert.equal((await denying.limit("id", { ip: "good" })).success, true);

const brief = new Ratelimit({ redis, limiter: Ratelimit.tokenBucket(1, "1 s", 1), prefix: "brief", ephemeralCache: false });
assert.equal((await brief.limit("id")).success, true);
assert.equal((await brief.blockUntilReady("id", 10_000)).success, true);

// Several regions: here the same one twice over.
for (const limiter of [MultiRegionRatelimit.fixedWindow(5, "1 h"), MultiRegionRatelimit.slidingWindow(5, "1 h")]) {
  const many = new MultiRegionRatelimit({ redis: [redis], limiter, prefix: `many:${Math.random()}` });
  const seen = [];
  for (let number = 0; number < 7; number++) {
    const answer = await many.limit("id");
    await answer.pending;
    seen.push(answer.success);
  }
  assert.deepEqual(seen, [true, true, true, true, true, false, false]);
}

// The client's own scripts with that flag.
const text = `#!lua flags=allow-key-locking
return {KEYS[1], ARGV[1], 7}`;
const script = redis.createScript(text);
for (let number = 0; number < 20; number++) assert.deepEqual(await script.exec(["k"], ["a"]), ["k", "a", 7]);
assert.deepEqual(await redis.createScript(text, { readonly: true }).exec(["k"], ["a"]), ["k", "a", 7]);
const hash = await redis.scriptLoad(text);
for (let number = 0; number < 20; number++) assert.deepEqual(await redis.evalsha(hash, ["k"], ["a"]), ["k", "a", 7]);

assert.ok(Date.now() - started < 50_000);
console.log("all well");

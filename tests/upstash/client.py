"""Run by a Python that has ``upstash-redis`` and nothing of ours: ``client.py URL TOKEN``."""

# ruff: noqa: PT017 (there is no pytest where this runs)
import sys
from typing import Any

from upstash_redis import Redis
from upstash_redis.errors import UpstashError

redis: Any = Redis(url=sys.argv[1], token=sys.argv[2], rest_retries=0)

assert redis.set("string", "väl\u00fce") is True
assert redis.get("string") == "väl\u00fce"
assert redis.set("number", 41, ex=60) is True
assert redis.incr("number") == 42
assert redis.get("nothing") is None

assert redis.hset("hash", values={"a": 1, "b": "two"}) == 2
assert redis.hgetall("hash") == {"a": "1", "b": "two"}

assert redis.zadd("zset", {"one": 1, "half": 0.5}) == 2
assert redis.zrange("zset", 0, -1, withscores=True) == [("half", 0.5), ("one", 1.0)]

pipeline = redis.pipeline()
pipeline.set("counter", 1)
pipeline.incr("counter")
pipeline.get("counter")
assert pipeline.exec() == [True, 2, "2"]

pipeline = redis.pipeline()
pipeline.set("p", 1)
pipeline.incr("hash")  # fails
pipeline.get("p")
try:
    pipeline.exec()
except UpstashError as error:
    assert "WRONGTYPE" in str(error), error
else:
    raise AssertionError("a failing item is an error")
assert redis.get("p") == "1", "the others were run"

transaction = redis.multi()
transaction.set("t", 1)
transaction.incr("t")
assert transaction.exec() == [True, 2]

assert redis.eval("return {KEYS[1], ARGV[1], 7}", keys=["k"], args=["a"]) == ["k", "a", 7]
sha = redis.script_load("return 1")
assert redis.evalsha(sha) == 1

awkward = "\x00\x01 \u2028 \U0001f40d \\ \" / ' \n"
redis.set("awkward", awkward)
assert redis.get("awkward") == awkward

redis.mset({f"scan:{number}": number for number in range(30)})
cursor, found = 0, set()
while True:
    cursor, keys = redis.scan(cursor, match="scan:*", count=7)
    found.update(keys)
    if cursor == 0:
        break
assert len(found) == 30

assert redis.lpush("list", "a", "b") == 2
assert redis.lrange("list", 0, -1) == ["b", "a"]
assert redis.sadd("set", "m") == 1
assert redis.smembers("set") == {"m"} or redis.smembers("set") == ["m"]
assert redis.ping() == "PONG"

try:
    redis.execute(["CONFIG", "GET", "*"])
except UpstashError as error:
    assert "not allowed" in str(error)
else:
    raise AssertionError("CONFIG is refused")
print("all well")

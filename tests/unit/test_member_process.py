"""The member and its process: forks, the end of the interpreter, gevent. Each in an interpreter of its own."""

from __future__ import annotations

import textwrap

from poolmgr import wire
from tests.helpers import python, wait_for

START = """
import gc, os, signal, socket, sys, threading, time
from poolmgr import wire
from poolmgr.member.member import get_member
from tests.helpers import wait_for
from tests.unit.fake_supervisor import FakePool

ENDPOINT = wire.Endpoint(key="tcp://server:1", host="server", port=1)

def pool_of(count, member=None):
    pool = FakePool(member or get_member(), ENDPOINT)
    wait_for(lambda: pool.permits.dispatcher.account.seq)
    for _ in range(count):
        assert pool.open()
    return pool

def descriptors():
    found = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    return {os.readlink(path) for path in found if os.path.exists(path) or os.path.islink(path)}

def in_child(work):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitpid(pid, 0)[1]
"""


def run(code):
    done = python(START + textwrap.dedent(code), check=False)
    assert done.returncode == 0, done.stderr
    return done


def test_a_child_begins_with_nothing_and_closes_its_copies(supervisor):
    run(
        """
        before = descriptors()
        pool = pool_of(2)
        permit, sock = pool.lent.pop()
        permit.close(sock)  # its peer does not answer: it is closing while we fork
        member = get_member()
        wait_for(lambda: pool.permits.dispatcher.account.closing)
        loop = member._loop
        numbers = (loop.session.link.sock.fileno(), loop.waker.fileno(), sock.fileno(), loop._selector.fileno())
        mine = {os.readlink(f"/proc/self/fd/{number}") for number in numbers}

        def child():
            left = descriptors() & mine
            assert left <= {"anon_inode:[eventpoll]"}, left
            assert threading.active_count() == 1
            assert get_member() is not member
            assert get_member().tag != member.tag
            assert get_member().core.link == 0
            # What the child still has of the parent's is inert.
            assert pool.permits.take() is None
            assert not pool.permits.give_up()
            permit, sock = pool.lent.pop()
            permit.close(sock)
            assert sock.fileno() == -1
            pool.idle.clear()
            gc.collect()
            theirs = pool_of(2)
            assert not theirs.open()

        assert in_child(child) == 0
        assert member.core.open == 2
        assert member._loop.session.link is not None
        assert pool.lent[0][1].send(b"x") == 1, "the parent's connection has not been shut by the child"
        """
    )
    first, second = supervisor.of(wire.Hello)
    assert first.tag != second.tag
    assert second.link == 1
    assert second.holds == ()


def test_a_fork_while_another_thread_holds_every_lock(supervisor):
    run(
        """
        from poolmgr.member import member as module
        pool = pool_of(1)
        member = get_member()
        held, go_on = threading.Event(), threading.Event()

        def hold():
            with module._making, member._lock, member._loop.session.link._sending:
                held.set()
                go_on.wait(10)

        threading.Thread(target=hold, daemon=True).start()
        held.wait()

        def child():
            signal.alarm(5)
            pool.lent.pop()[0].gone()
            pool_of(2)

        assert in_child(child) == 0
        go_on.set()
        """
    )


def test_forks_under_load_never_hang(supervisor):
    supervisor.limit = 4
    run(
        """
        pool = pool_of(1)
        stop = threading.Event()

        def churn():
            while not stop.is_set():
                permit = pool.permits.take()
                if permit is not None:
                    permit.gone()
                pool.permits.give_up()

        threads = [threading.Thread(target=churn) for _ in range(3)]
        for thread in threads:
            thread.start()

        def child():
            signal.alarm(10)
            fresh = FakePool(get_member(), ENDPOINT)
            wait_for(fresh.open)

        for _ in range(15):
            assert in_child(child) == 0
        stop.set()
        """
    )


def test_the_interpreter_says_goodbye(supervisor):
    run(
        """
        pool = pool_of(1)
        pool.release()
        threading.Thread(target=lambda: pool.peers[0].recv(1) == b"" and pool.peers[0].close(), daemon=True).start()
        """
    )
    wait_for(lambda: supervisor.of(wire.Bye))


def test_the_interpreter_does_not_wait_for_long(supervisor):
    run(
        """
        import atexit
        began = []
        atexit.register(lambda: None if time.monotonic() - began[0] < 20 else os._exit(3))
        pool = pool_of(2)
        began.append(time.monotonic())
        """
    )
    assert not supervisor.of(wire.Bye)


def test_a_request_to_end_that_comes_during_the_goodbye_neither_ends_it_nor_is_an_error(supervisor):
    done = run(
        """
        member = get_member()
        pool = pool_of(1)
        pool.release()
        left = member._loop._left
        wait, peer = left.wait, pool.peers[0]

        def struck(timeout):
            left.wait = wait
            threading.Thread(target=lambda: peer.recv(1) == b"" and peer.close(), daemon=True).start()
            raise SystemExit(0)  # as a gevent worker's hub does, whose quit signal came just before

        left.wait = struck
        """
    )
    assert done.stderr == ""
    wait_for(lambda: supervisor.of(wire.Bye))


def test_permits_survive_exceptions_of_signal_handlers_at_random_instants(supervisor):
    supervisor.limit = 3
    run(
        """
        class Interrupt(Exception):
            pass

        armed = []

        def interrupt(number, frame):
            if armed:
                armed.clear()  # one only: a second one could strike where nobody expects it any more
                raise Interrupt

        pool = pool_of(0)
        permits, account = pool.permits, pool.permits.dispatcher.account

        def use():
            while armed:  # a finalizer may swallow it
                permit = permits.take()
                if permit is not None:
                    permit.gone()
                    permit = None
                permits.give_up()
                try:
                    permits.wait(0.0001).gone()
                except Interrupt:
                    raise
                except Exception:
                    pass

        signal.signal(signal.SIGALRM, interrupt)
        interrupted = 0
        import random
        rng = random.Random(5)
        deadline = time.monotonic() + 8
        while interrupted < 600 and time.monotonic() < deadline:
            try:
                armed.append(1)
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.00001, 0.0004), 0.002)
                try:
                    use()  # a function: from Python 3.12 on a loop right here could be torn past the except below
                finally:
                    armed.clear()
            except Interrupt:
                interrupted += 1
            permit = None
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        assert interrupted > 100, interrupted
        gc.collect()
        # Those collected between "handed out" and our hands are lost by the rule, and proven in the end.
        wait_for(lambda: not account.live, what=f"live: {account!r}")
        from poolmgr.member.member import get_member
        for serial in list(account.lost):
            get_member().locked(get_member().core.gone, serial)
        taken = [wait_for(permits.take) for _ in range(3)]
        assert permits.take() is None
        assert not pool.permits.dispatcher.waiters
        print(interrupted)
        """
    )


def test_it_works_under_gevent(supervisor):
    done = python(
        "from gevent import monkey; monkey.patch_all()\n"
        + START
        + textwrap.dedent(
            """
        import gevent
        pool = pool_of(2)
        pool.waiting = 1
        assert not pool.open()
        turns = []

        def other():
            while True:
                turns.append(1)
                gevent.sleep(0.001)

        busy = gevent.spawn(other)
        got = []
        waiting = gevent.spawn(lambda: got.append(pool.permits.wait(60)))
        wait_for(lambda: len(turns) > 10, step=0.01)
        assert not waiting.dead, "nobody blocks the others"
        permit, sock = pool.lent.pop()
        pool.peers[-1].close()
        permit.close(sock)
        waiting.join(60)
        assert got and got[0].serial
        pool.waiting = 0
        got[0].gone()
        pool.release()
        peer = pool.peers[0]
        closer = gevent.spawn(lambda: peer.recv(1) == b"" and peer.close())
        get_member().leave(20)
        wait_for(lambda: get_member().core.open == 0)
        import threading
        assert threading.active_count() >= 1
        os._exit(0)
        """
        ),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    wait_for(lambda: supervisor.of(wire.Bye))


def test_importing_the_member_loads_nothing_heavy():
    """Nothing that redis-py does not load; where OpenTelemetry is installed, it loads that and what that needs."""
    heavy = "print([m for m in ('asyncio', 'structlog', 'psutil', 'typer', 'gevent', 'gunicorn') if m in sys.modules])"
    ours, theirs = (python(f"import sys, {name}; {heavy}").stdout for name in ("poolmgr.member.member", "redis"))
    assert ours == theirs


def test_a_signal_handler_may_use_the_member_while_it_is_being_made(supervisor):
    done = run(
        """
        from poolmgr.member import member as module
        signal.alarm(10)
        real = module.settings.load

        def load():
            module.settings.load = real
            os.kill(os.getpid(), signal.SIGUSR1)
            return real()

        seen = []
        module.settings.load = load
        signal.signal(signal.SIGUSR1, lambda *_: seen.append(get_member()))
        print(get_member() is get_member() is seen[0])
        """
    )
    assert done.stdout == "True\n"


def test_two_threads_that_start_it_at_once_start_one(supervisor):
    run(
        """
        from poolmgr import settings
        from poolmgr.member.member import Member
        from poolmgr.member.loop import Loop

        assigned, raised = threading.Event(), []

        class Slow(Loop):
            @property
            def _thread(self):
                return vars(self).get("thread")

            @_thread.setter
            def _thread(self, thread):
                vars(self)["thread"] = thread
                if thread is not None and not assigned.is_set():
                    assigned.set()
                    time.sleep(0.1)  # the other one comes now

        def start():
            try:
                loop.start()
            except BaseException as error:
                raised.append(error)

        loop = Slow(Member(settings.load()))
        threads = [threading.Thread(target=start) for _ in range(2)]
        threads[0].start()
        assert assigned.wait(5)
        threads[1].start()
        for thread in threads:
            thread.join()
        assert raised == []
        assert [thread.name for thread in threading.enumerate()].count("poolmgr-member") == 1
        loop.stop()
        """
    )

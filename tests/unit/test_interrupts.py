"""Ctrl-C while a master starts is ours; anybody else's is left alone. Each in an interpreter of its own."""

from __future__ import annotations

from tests.helpers import python


def test_who_reads_the_configuration_and_is_no_gunicorn_keeps_its_own_interrupts():
    code = """if True:
        import signal
        import poolmgr.conf
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"""
    python(code)


def test_a_master_that_serves_though_somebody_has_caught_the_exit_is_not_ended_by_its_starts_alarm():
    code = """if True:
        import os, signal, gunicorn.app.base
        from poolmgr.gunicorn import interrupts
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing)
        interrupts.PATIENCE = 0.05
        try:
            with interrupts.held_back(), interrupts.let_through():
                os.kill(os.getpid(), signal.SIGINT)
        except BaseException as caught:
            print(repr(caught))
        signal.signal(signal.SIGINT, lambda *_: None)  # as gunicorn does before it serves
        said = b""
        while signal.SIGALRM not in said:
            said += os.read(reading, 1)
        print("serves", flush=True)
        os._exit(0)"""
    assert python(code).stdout == "SystemExit(130)\nserves\n"

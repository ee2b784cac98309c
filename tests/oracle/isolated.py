"""Calls in a process of their own: oracles crash and hang on some models, and that must not end the comparison."""

import multiprocessing
import pickle

# For one call.
SECONDS = 20


class Lost(Exception):
    """The process ended, or took too long, without an answer."""


def call(function, *arguments):
    """What the function returns or raises, computed in a forked process."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(sender, function, arguments), daemon=True)
    process.start()
    sender.close()
    try:
        if not receiver.poll(SECONDS):
            raise Lost(f"no answer within {SECONDS} s")
        answer = receiver.recv_bytes()
    except EOFError:
        process.join()
        raise Lost(f"the process ended with code {process.exitcode}") from None
    finally:
        if process.is_alive():
            process.kill()
        receiver.close()
        process.join()
    value, error = pickle.loads(answer)
    if error:
        raise RuntimeError(error)
    return value


def work(sender, function, arguments):
    try:
        answer = (function(*arguments), None)
    except Exception as error:  # noqa: BLE001: whatever it is, it is told
        answer = (None, f"{type(error).__name__}: {str(error)[:300]}")
    sender.send_bytes(pickle.dumps(answer))
    sender.close()

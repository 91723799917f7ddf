"""Signals that end a training: it stops after the current step, and is saved."""

import signal
import threading


class Stopped(Exception):
    """Raised after SIGINT, SIGTERM or SIGHUP, when the state is saved. `signal` is the number of the signal."""

    def __init__(self, number: int):
        super().__init__(f"stopped by signal {number}")
        self.signal = number


class Interrupt:
    """Records SIGNALS, so that the run stops after the current step. A second Ctrl-C or SIGTERM stops it at once.

    A second SIGHUP does not, because a closed terminal can send several: one from the system and one from the shell.
    Python receives signals in its main thread only. In another thread, this class records nothing. If SIGHUP is
    ignored, as under `nohup`, it stays ignored.
    """

    # SIGHUP: the terminal is closed; SIGBREAK: the same on Windows
    SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")

    def __init__(self):
        self.signal = 0

    def _record(self, number, frame):
        if not self.signal:
            self.signal = number
        elif number in (signal.SIGINT, signal.SIGTERM):
            raise KeyboardInterrupt

    def __enter__(self):
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in self.SIGNALS if hasattr(signal, name)):
                before = signal.getsignal(number)
                # None: set by a program that embeds Python, which could not be restored
                ignored = before is signal.SIG_IGN and signal.Signals(number).name == "SIGHUP"
                if before is not None and not ignored:
                    self._before[number] = signal.signal(number, self._record)
        return self

    def __exit__(self, *error):
        for number, handler in self._before.items():
            signal.signal(number, handler)

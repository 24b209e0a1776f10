"""satura, by its command line."""

import json
import os
import shutil
import subprocess

from environment import MODELS
from work import WINDOW, Encode, Prefill


class NotBuiltYet(Exception):
    """satura's command line knows no such option or value."""


class Satura:
    """`satura bench`, which stays and measures whenever it is told to."""

    def __init__(self, binary, folder, weights, work, threads, seconds):
        if isinstance(work, Encode):
            shape = ["--seq", ",".join(map(str, work.lengths))]
        elif isinstance(work, Prefill):
            shape = ["--prompt", work.tokens, "--gen", 1]
        else:
            shape = ["--depth", work.context - WINDOW, "--prompt", WINDOW, "--gen", WINDOW, "--batch", work.streams]
        self.work = work
        command = [binary, "bench", folder, *weights, *shape, "--threads", threads, "--seconds", seconds]
        command = [*map(str, command), "--roofline=none", "--turns", "--json"]
        self.process = subprocess.Popen(
            command, env=environment(), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        self.turn()

    def turn(self):
        try:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        line = self.process.stdout.readline()
        if not line:
            raise failure(self.process.wait(), self.process.stderr.read())
        found = json.loads(line)
        if isinstance(self.work, Encode):
            return found["latency_ms"]["p50"] / 1e3
        if isinstance(self.work, Prefill):
            return found["first_token_ms"] / 1e3
        return found["step_ms"]["p50"] / 1e3

    def close(self):
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        self.process.wait()


def satura(binary, *arguments):
    """What a command prints with --json. An exit code of 1 that comes with an answer is an answer."""
    command = [*map(str, (binary, *arguments)), "--json"]
    done = subprocess.run(command, env=environment(), text=True, capture_output=True)
    if done.returncode and not (done.returncode == 1 and done.stdout):
        raise failure(done.returncode, done.stderr)
    return json.loads(done.stdout)


def failure(code, errors):
    """What satura's end means: the command line's own complaint about an option says that it is not there yet."""
    unknown = ("invalid value", "unexpected argument", "unrecognized subcommand")
    if code == 2 and any(word in errors for word in unknown):
        return NotBuiltYet(errors.strip().splitlines()[0].removeprefix("error: "))
    return RuntimeError(f"satura failed with code {code}: {errors.strip()}")


# Compiled models, while they are used: large, and other ones for each version of satura.
CACHE = MODELS / ".cache"


def environment():
    return {**os.environ, "SATURA_CACHE": str(CACHE)}


def forget():
    """Removes what was compiled."""
    shutil.rmtree(CACHE, ignore_errors=True)

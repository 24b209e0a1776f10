"""What a benchmark runs in: a virtual environment with the peers, and the machine with its cores."""

import os
import pathlib
import platform
import subprocess
import sys
from importlib import metadata

HERE = pathlib.Path(__file__).resolve().parent
VENV = HERE / ".venv"
WHEELS = HERE / ".wheels"
MODELS = HERE / "models"

# Instructions that decide how fast arithmetic is.
FLAGS = ["avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile"]


def say(*words):
    print(*words, file=sys.stderr, flush=True)


def enter(packages, compiled):
    """Goes on inside the virtual environment, which is made where there is none and gets what it lacks. The packages
    named in `compiled` are built from source, for this machine's processor, and kept as wheels."""
    python = VENV / "bin" / "python"
    if pathlib.Path(sys.prefix) != VENV:
        if not python.exists():
            say("making", VENV)
            subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
        os.execv(python, [python, *sys.argv])
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    for name in filter(missing, compiled):
        if not wheels(name):
            say("compiling", name, "which takes the better part of an hour on two cores")
            subprocess.run([*pip, "wheel", "-q", "--no-deps", "--no-binary", name, "-w", WHEELS, name], check=True)
        subprocess.run([*pip, "install", "-q", *wheels(name)], check=True)
    absent = list(filter(missing, packages))
    if absent:
        say("installing", *absent)
        subprocess.run([*pip, "install", "-q", *absent], check=True)


def missing(package):
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return True
    return False


def wheels(package):
    return list(WHEELS.glob(package.replace("-", "_") + "-*.whl"))


def pin(threads):
    """Keeps this process, and what it starts, on `threads` cores, one hardware thread of each before a second of any;
    on one of each core by default. Gives their number."""
    if not hasattr(os, "sched_setaffinity"):
        return threads or os.cpu_count()

    def place(cpu):
        siblings = pathlib.Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        listed = siblings.read_text().strip() if siblings.exists() else str(cpu)
        first = int(listed.replace("-", ",").split(",")[0])
        return (cpu != first, cpu)

    cpus = sorted(os.sched_getaffinity(0), key=place)
    threads = threads or sum(not second for second, _ in map(place, cpus))
    os.sched_setaffinity(0, cpus[:threads])
    return threads


def machine():
    """The processor's name and what it has."""
    name = platform.processor() or platform.machine()
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        facts = dict(line.split(":", 1) for line in cpuinfo.read_text().splitlines() if ":" in line)
        facts = {key.strip(): value.strip() for key, value in facts.items()}
        name = facts.get("model name", name)
        if "cpu family" in facts:
            name += f", family {facts['cpu family']} model {facts['model']}"
        flags = set(facts.get("flags", "").split())
        name += f" ({', '.join(f for f in FLAGS if f in flags)})"
    return f"{name}, {os.cpu_count()} CPUs, {platform.system()}"

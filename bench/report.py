"""What a run found: ratios, shares of the machine's ceilings, and the table that says so."""

import statistics
from dataclasses import dataclass

import ceilings
from work import Decode, Encode, Prefill


@dataclass(frozen=True)
class Case:
    model: str
    shape: str
    precision: str
    work: object
    # How many times as fast as its fastest peer satura is to be.
    reach: float = None

    @property
    def name(self):
        return f"{self.model}-{self.shape}-{self.precision}"


@dataclass(frozen=True)
class Result:
    case: Case
    config: dict
    # By name: the seconds of each turn and the way it went, or why there are none. satura is the first.
    contenders: dict


def judged(results, machine):
    """Each case with medians, its ratio to the fastest peer, and the least time that the machine allows."""
    found = {}
    for result in results:
        case, contenders = result.case, {}
        seconds, bound = ceilings.least(case.work, result.config, case.precision, machine)
        for name, entry in result.contenders.items():
            contenders[name] = dict(entry)
            if "turns" in entry:
                median = statistics.median(entry["turns"])
                contenders[name] |= {"seconds": median, "fraction": seconds / median}
        peers = {name: e for name, e in contenders.items() if name != "satura" and "turns" in e}
        for peer in peers.values():
            turns = zip(peer["turns"], contenders["satura"].get("turns", []))
            ratios = [theirs / ours for theirs, ours in turns]
            peer["ratio"] = statistics.median(ratios) if ratios else None
        fastest = min(peers, key=lambda name: peers[name]["seconds"], default=None)
        found[case.name] = {
            "work": {"kind": type(case.work).__name__, **vars(case.work)}, "tokens": made(case.work), "reach": case.reach,
            "ratio": peers[fastest]["ratio"] if fastest else None, "fastest_peer": fastest,
            "least_seconds": seconds, "bound": bound, "contenders": contenders,
        }
    for result in results:
        found[result.case.name]["note"] = note(result, found, machine)
    return found


def made(work):
    """Tokens that a decoder reads or makes in a run; of an encoder, latency is what counts."""
    if isinstance(work, Encode):
        return None
    return work.tokens if isinstance(work, Prefill) else work.streams


def note(result, found, machine):
    """What satura's time is to be beside another of its own times, where both were measured."""
    case, work = result.case, result.case.work

    def seconds(shape):
        other = found.get(f"{case.model}-{shape}-{case.precision}", {"contenders": {}})
        return other["contenders"].get("satura", {}).get("seconds")

    ours = seconds(case.shape)
    if isinstance(work, Encode) and len(set(work.lengths)) > 1 and ours and (full := seconds("8x128")):
        return f"a token takes {ours / sum(work.lengths) * 1024 / full:.2f} of the time that it takes in 8x128"
    if isinstance(work, Decode) and case.shape != "decode" and ours and (single := seconds("decode")):
        if work.streams > 1:
            return f"{work.streams * single / ours:.2f} times the tokens of one stream (reach 5)"
        more = ceilings.keys_and_values(result.config, work.context - 128) / machine["read_gb_per_s"] * 1e-9
        return f"{ours / (single + more):.2f} of a step at 128 and the reading of the cache (reach 1.2 or less)"
    return None


def table(found):
    lines = []
    head = f"{'ratio':>7} {'reach':>6}  {'case':<31} {'satura':>13} {'of ceiling':>14}   peers"
    lines += [head, "-" * len(head)]
    for name, case in found["cases"].items():
        ratio = f"{case['ratio']:.2f}x" if case["ratio"] else "-"
        reach = f"{case['reach']:.2f}x" if case["reach"] else ""
        cells = []
        for who, entry in case["contenders"].items():
            if "why" in entry:
                cells.append((entry["why"], "", who, None))
                continue
            share = f"{100 * entry['fraction']:.0f} %"
            cells.append((told(entry["seconds"], case), share, who, entry["way"]))
        (ours, share, _, _), *peers = cells
        share = f"{share} of {case['bound']}" if share else ""
        peers = "; ".join(
            f"{who} {value}" + (f", {share}" if share else "") + (f" ({way})" if way else "") for value, share, who, way in peers
        )
        lines.append(f"{ratio:>7} {reach:>6}  {name:<31} {ours:>13} {share:>14}   {peers}")
        if case["note"]:
            lines.append(f"{'':48} {case['note']}")
    machine = found["ceilings"]
    products = {"f32_gflop_per_s": "f32", "bf16_gflop_per_s": "bf16", "i8_gop_per_s": "int8"}
    peaks = ", ".join(f"{machine[key]:.0f} Gop/s {word}" for key, word in products.items() if machine[key])
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    lines += [
        "",
        f"{found['machine']}; {found['threads']} threads; reads {machine['read_gb_per_s']:.1f} GB/s, computes {peaks}",
        f"{versions}; medians of {found['rounds']} turns of {found['seconds']:g} s; above 1 satura is faster",
    ]
    for a in found["agreement"]:
        top1 = f", same likeliest token at {100 * a['top1']:.0f} %" if a.get("top1") is not None else ""
        verdict = "agrees" if a["agree"] else "DISAGREES"
        lines.append(f"{a['what']}: {verdict}, relative L2 error {a['error']:.1e} (limit {a['limit']:.1e}){top1}")
    lines += [f"FAILED: {failure}" for failure in found["failures"]]
    if found["quick"]:
        lines.append("--quick: shows that all runs; its figures mean nothing, and long contexts are a sixteenth")
    if found["load_before"] > 0.5:
        lines.append(f"the machine was busy with something else (load {found['load_before']:.1f}): run again when it is idle")
    return "\n".join(lines) + "\n"


def told(seconds, case):
    """Milliseconds of encoders, tokens a second of decoders."""
    if case["tokens"] is None:
        return f"{seconds * 1e3:.2f} ms"
    return f"{case['tokens'] / seconds:.1f} tok/s"

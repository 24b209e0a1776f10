//! What launches took, as a trace for Chrome and Perfetto.

use super::speed::Launches;
use serde_json::{Value, json};
use std::time::Duration;

/// Steps beside each other, each a process whose launches come one after another, in the Trace Event Format: complete events,
/// in microseconds.
pub fn chrome(steps: &[(&str, Launches)]) -> Value {
    let mut events = vec![];
    for (pid, (step, launches)) in steps.iter().enumerate() {
        events.push(
            json!({ "name": "process_name", "ph": "M", "pid": pid, "args": { "name": step } }),
        );
        let mut start = Duration::ZERO;
        for (name, time) in launches {
            let (call, kernel) = name.split_once(": ").unwrap_or(("", name));
            let microseconds = |t: Duration| t.as_secs_f64() * 1e6;
            events.push(json!({
                "name": kernel,
                "cat": call,
                "ph": "X",
                "ts": microseconds(start),
                "dur": microseconds(*time),
                "pid": pid,
                "tid": 0,
                "args": { "call": call },
            }));
            start += *time;
        }
    }
    json!({ "traceEvents": events, "displayTimeUnit": "ns" })
}

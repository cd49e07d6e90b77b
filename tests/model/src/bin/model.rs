use model::explore::*;
use model::rules::*;
use model::state::*;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let get = |k: &str, d: u64| {
        a.iter()
            .find_map(|x| x.strip_prefix(&format!("{k}=")).map(|v| v.parse().unwrap()))
            .unwrap_or(d)
    };
    let gs = |k: &str| {
        a.iter()
            .find_map(|x| x.strip_prefix(&format!("{k}=")).map(|v| v.to_string()))
            .unwrap_or_default()
    };
    let broken = Broken::ALL.into_iter().find(|b| format!("{b:?}") == gs("bug"));
    let mut dirs = vec![Direction::Down, Direction::Up];
    if gs("dir") == "up" {
        dirs.remove(0);
    } else if gs("dir") == "down" {
        dirs.pop();
    }
    let bugs: Vec<Option<Broken>> =
        if a[1] == "canaries" { Broken::ALL.into_iter().map(Some).collect() } else { vec![broken] };
    for broken in bugs {
        for &direction in &dirs {
            let d = |x, y| if a[1] == "exhaust" { x } else { y };
            let c = Config {
                direction,
                nodes: get("n", 3) as u8,
                bytes: get("d", d(2, 3)) as u8,
                record: get("rec", 2) as u8,
                controls: get("ctl", d(0, 1)) as u8,
                views: get("views", d(3, 5)) as u8,
                crashes: get("crashes", d(1, 2)) as u8,
                restarts: get("restarts", d(0, 2)) as u8,
                joins: get("joins", d(0, 2)) as u8,
                commit_index: get("ci", (broken == Some(Broken::CommitIndexTooFar)) as u64) == 1,
                mutable_peer: get("mut", (broken == Some(Broken::TagIgnored)) as u64) == 1,
                keep_spent: get("keep", 0) == 1,
                broken,
            };
            let t = std::time::Instant::now();
            let s = if a[1] == "exhaust" {
                exhaust(
                    &c,
                    Limits {
                        states: get("max", 5_000_000) as usize,
                        finish_every: get("live", 16),
                    },
                )
            } else {
                walk(&c, get("seed", 1), get("walks", 20000) as usize)
            };
            let e = t.elapsed().as_secs_f64();
            println!(
                "{direction:?} {broken:?}: {} states {} transitions depth {} complete {} finished {} lost {} in {e:.2} s, {:.0}/s  {}",
                s.states,
                s.transitions,
                s.depth,
                s.complete,
                s.finished,
                s.lost,
                s.transitions as f64 / e,
                s.found
                    .as_ref()
                    .map(|f| format!("{} steps, {}", f.trace.len(), f.violation))
                    .unwrap_or("OK".into())
            );
            if gs("trace") != "" {
                if let Some(f) = s.found {
                    println!("{f}")
                }
            }
        }
    }
}

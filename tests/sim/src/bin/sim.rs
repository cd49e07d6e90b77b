//! Runs many seeds: `sim FIRST COUNT`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).filter_map(|word| word.parse().ok());
    let (first, count): (u64, u64) =
        (arguments.next().unwrap_or(0), arguments.next().unwrap_or(100));
    let mut failed = 0;
    for seed in first..first + count {
        let result = std::panic::catch_unwind(|| sim::run_seed(seed));
        let failure = match result {
            Ok(report) if report.failures.is_empty() => continue,
            Ok(report) => report.failures.join("; "),
            Err(_) => "panic".to_owned(),
        };
        failed += 1;
        println!("seed {seed}: {failure}");
    }
    println!("{count} seeds from {first}, {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

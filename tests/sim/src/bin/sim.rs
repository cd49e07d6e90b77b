fn main() {
    #[cfg(feature = "canary")]
    for trial in sim::canary::TRIALS {
        let begin = std::time::Instant::now();
        println!("{:?}: {:?} {:?}", trial.canary, trial.run(), begin.elapsed());
    }
}

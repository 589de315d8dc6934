//! The benchmark harness.
mod random;
mod suites;
mod thread_time;
mod workload;

fn main() -> anyhow::Result<()> {
    let started = std::time::Instant::now();
    let mut steady = workload::Steady::build(suites::core::CASE, 1)?;
    eprintln!("built in {:?}", started.elapsed());
    suites::core::sample(&mut steady, 50)?;
    for _ in 0..5 {
        let value = suites::core::sample(&mut steady, 50)?;
        eprintln!("{value:.0} claims/s");
    }
    Ok(())
}

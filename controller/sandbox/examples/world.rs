//! A world to play with: `cargo run -p amend-sandbox --example world -- [SCENARIO] [SPEED] [SECONDS] [trigger]`
//!
//! Prints where everything is, then what fires; ends after SECONDS of real time.

use std::time::Duration;

use amend_sandbox::{SandboxClock, Scenario, World};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |at: usize| arguments.get(at).map(String::as_str);
    let name = argument(0).unwrap_or("oom");
    let scenario = Scenario::named(name).ok_or_else(|| anyhow::anyhow!("no scenario is called {name}"))?;
    let speed = argument(1).and_then(|text| text.parse().ok()).unwrap_or(1.0);
    let seconds = argument(2).and_then(|text| text.parse().ok()).unwrap_or(600_u64);
    let begun = std::time::Instant::now();
    let clock = SandboxClock::scaled(jiff::Timestamp::now(), speed);
    let world = World::start(scenario, clock, &[]).await?;
    println!("ready after {:?}\n{:#?}", begun.elapsed(), world.endpoints());
    if arguments.iter().any(|argument| argument == "trigger") {
        println!("pushed {:?}", world.trigger()?);
    }
    for second in 0..seconds {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if second % 5 == 0 {
            let firing = world.with_telemetry(|telemetry| telemetry.alertmanager().firing());
            let names: Vec<&String> = firing.iter().filter_map(|labels| labels.get("alertname")).collect();
            println!("{} {} alerts {names:.200?} {}", world.clock().now(), names.len(), resident());
        }
    }
    Ok(())
}

/// Peak resident memory, where the system tells it.
fn resident() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default().to_owned()
}

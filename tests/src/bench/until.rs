//! Waiting on a condition, never for a time.

use std::fmt::Debug;
use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::bail;

/// How often a condition is looked at: often enough that a test loses nothing, seldom enough that two
/// cores are not busy with asking.
const PERIOD: Duration = Duration::from_millis(100);

/// Asks until the answer is `Ok(Some(_))`.
///
/// # Errors
/// When `limit` has passed: says what was waited for, how long, and the last error that was answered.
pub async fn until<T, E, F, A>(what: &str, limit: Duration, mut ask: F) -> anyhow::Result<T>
where
    F: FnMut() -> A,
    A: Future<Output = Result<Option<T>, E>>,
    E: Debug,
{
    let began = Instant::now();
    let mut tick = tokio::time::interval(PERIOD);
    loop {
        tick.tick().await;
        let last_error = match tokio::time::timeout(limit, ask()).await {
            Ok(Ok(Some(answer))) => return Ok(answer),
            Ok(Ok(None)) => None,
            Ok(Err(error)) => Some(error),
            Err(_) => bail!("waited {} s for {what}: the question itself was not answered", limit.as_secs()),
        };
        if began.elapsed() >= limit {
            match last_error {
                Some(error) => bail!("waited {} s for {what}; last error: {error:?}", limit.as_secs()),
                None => bail!("waited {} s for {what}", limit.as_secs()),
            }
        }
    }
}

//! What several stories tell in the same words.

use std::time::Duration;

use amend_tests::stage::Stage;

/// The lines that a unified diff removes and adds, without their signs.
pub fn changed_lines(diff: &str) -> (Vec<String>, Vec<String>) {
    let lines = |sign: char, header: &str| {
        let changed = diff.lines().filter(|line| !line.starts_with(header));
        changed.filter_map(|line| line.strip_prefix(sign)).map(str::to_owned).collect()
    };
    (lines('-', "---"), lines('+', "+++"))
}

/// Waits until a gate's verdict, a remediation or an incident says this; gives the whole sentence.
pub async fn sentence_of(stage: &Stage, what: &str, limit: Duration, part: &str) -> anyhow::Result<String> {
    stage
        .until_seen(&format!("{what} to be named"), limit, |seen| {
            let statuses = seen.remediations.iter().filter_map(|one| one.status.as_ref());
            let told = statuses.flat_map(|status| {
                let verdicts = status.verdicts.iter().map(|verdict| verdict.sentence.clone());
                verdicts.chain([status.because.clone()])
            });
            Ok(told.into_iter().find(|sentence| sentence.contains(part)))
        })
        .await
}

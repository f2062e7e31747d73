//! What several stories tell in the same words.

/// The lines that a unified diff removes and adds, without their signs.
pub fn changed_lines(diff: &str) -> (Vec<String>, Vec<String>) {
    let lines = |sign: char, header: &str| {
        let changed = diff.lines().filter(|line| !line.starts_with(header));
        changed.filter_map(|line| line.strip_prefix(sign)).map(str::to_owned).collect()
    };
    (lines('-', "---"), lines('+', "+++"))
}

//! A unified diff, line by line.

/// One line and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiffLine {
    /// CSS class: `file`, `hunk`, `add`, `del` or `same`.
    pub kind: &'static str,
    /// What a screen reader says before the line.
    pub spoken: &'static str,
    pub text: String,
}

/// More than this is read at the forge.
const LINES_MAX: usize = 400;

/// The lines of a unified diff.
pub fn lines(diff: &str) -> Vec<DiffLine> {
    let mut in_hunk = false;
    let line = |text: &str| {
        let (kind, spoken) = match text.as_bytes().first() {
            _ if text.starts_with("@@") => {
                in_hunk = true;
                ("hunk", "")
            }
            _ if text.starts_with("diff ") => {
                in_hunk = false;
                ("file", "")
            }
            // Before the first hunk, `---` and `+++` name files and change nothing.
            _ if !in_hunk => ("file", ""),
            Some(b'+') => ("add", "added: "),
            Some(b'-') => ("del", "removed: "),
            _ => ("same", ""),
        };
        DiffLine { kind, spoken, text: crate::intake::untrusted::lines(text, 400) }
    };
    diff.lines().take(LINES_MAX).map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_are_not_mistaken_for_changes() {
        let diff = "--- a/checkout.yaml\n+++ b/checkout.yaml\n@@ -1,2 +1,2 @@\n name: app\n-memory: 64Mi\n+memory: 96Mi\n--- end";
        let kinds: Vec<_> = lines(diff).iter().map(|line| line.kind).collect();
        assert_eq!(kinds, ["file", "file", "hunk", "same", "del", "add", "del"]);
    }
}

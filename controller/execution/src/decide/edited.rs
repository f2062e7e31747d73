//! A value that people changed under an open proposal: what is said about it, and when it is not yet believed.

use jiff::Timestamp;

use super::intent::UNDER_WAY_FOR;
use crate::snapshot::Edited;

impl Edited {
    /// Whether this may be the merge of our own pull request, which the forge does not show as merged yet.
    ///
    /// A squash leaves no trace of us. Forges show what they merged within a minute, so what is older was done by others. A
    /// commit that is not known may be of this very moment.
    pub(super) fn may_be_our_merge(&self, now: Timestamp) -> bool {
        self.as_planned && self.by.as_ref().is_none_or(|by| now.duration_since(by.at) < UNDER_WAY_FOR)
    }

    /// Why `proposed` ("this pull request") is withdrawn, for people.
    pub(super) fn sentence(&self, proposed: &str) -> String {
        let by = match &self.by {
            Some(by) => format!("by commit {} of {}", by.commit, by.author),
            None => "since the plan was made".to_owned(),
        };
        let place = format!("{}: {}", self.file, self.what);
        let now = match &self.now {
            Some(now) => format!("{place} was changed to {now} {by}"),
            None => format!("{place} was removed {by}"),
        };
        if self.as_planned {
            return format!("{now}, as {proposed} would have done: cured by a person");
        }
        match &self.from {
            Some(from) => format!("{now}; {proposed} was made against {from}"),
            None => format!("{now}; {proposed} was made where there was none"),
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::snapshot::EditedBy;

    fn edited(now: Option<&str>, as_planned: bool) -> Edited {
        Edited {
            file: "shop/checkout.yaml".into(),
            what: "memory limit of app".into(),
            from: Some("256Mi".into()),
            now: now.map(str::to_owned),
            as_planned,
            by: Some(EditedBy { commit: "abc12345".into(), author: "lena".into(), at: Timestamp::UNIX_EPOCH }),
        }
    }

    #[test]
    fn the_reason_names_file_field_value_commit_and_person() {
        assert_eq!(
            edited(Some("512Mi"), false).sentence("this pull request"),
            "shop/checkout.yaml: memory limit of app was changed to 512Mi by commit abc12345 of lena; this pull request was made against 256Mi"
        );
        assert_eq!(
            edited(Some("384Mi"), true).sentence("this pull request"),
            "shop/checkout.yaml: memory limit of app was changed to 384Mi by commit abc12345 of lena, as this pull request would have done: cured by a person"
        );
        let removed = Edited { by: None, ..edited(None, false) };
        assert!(
            removed.sentence("this plan").contains("was removed since the plan was made; this plan was made against")
        );
    }

    #[test]
    fn the_planned_value_is_believed_to_be_anothers_only_once_the_forge_must_have_shown_our_merge() {
        let at = |seconds: i64| Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds);
        assert!(edited(Some("384Mi"), true).may_be_our_merge(at(5)));
        assert!(!edited(Some("384Mi"), true).may_be_our_merge(at(90)));
        assert!(Edited { by: None, ..edited(Some("384Mi"), true) }.may_be_our_merge(at(90)), "unknown is never yes");
        assert!(!edited(Some("512Mi"), false).may_be_our_merge(at(0)), "another value is no merge of ours");
    }
}

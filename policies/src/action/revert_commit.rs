//! Takes one commit back: the files it touched get the content they had before it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::policy::Problems;

/// Settings of the action.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RevertCommit {
    /// A commit that touched more files than this is not reverted. Without it [`MAX_FILES`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub max_files: Option<u32>,
}

/// How many files a reverted commit may touch when the policy says nothing: a release of one service rarely needs more,
/// and a reviewer at night still reads this many.
pub const MAX_FILES: u32 = 10;

/// The settings, read and bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RevertRule {
    pub max_files: u32,
}

impl RevertCommit {
    pub(crate) fn compile(&self, path: &str, problems: &mut Problems) -> Option<RevertRule> {
        match self.max_files {
            Some(count @ (0 | 101..)) => {
                problems
                    .add(format!("{path}.maxFiles"), format!("{count} is out of bounds; write a number from 1 to 100"));
                None
            }
            Some(max_files) => Some(RevertRule { max_files }),
            None => Some(RevertRule { max_files: MAX_FILES }),
        }
    }
}

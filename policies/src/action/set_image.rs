//! Sets a container's image: to a named one, or to the last one that was seen to work.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::policy::{Problems, quoted};

/// Settings of the action.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SetImage {
    /// The container; without it the one that the cause names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub container: Option<String>,
    /// The image with tag or digest; without it the last good one that the diagnosis found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub to: Option<String>,
}

impl SetImage {
    pub(crate) fn compile(&self, path: &str, problems: &mut Problems) -> Option<Self> {
        if let Some(image) = &self.to
            && !is_pinned_image(image)
        {
            problems.add(
                format!("{path}.to"),
                format!("{} is not an image with a tag or digest; write it like registry/app:1.4.2", quoted(image)),
            );
            return None;
        }
        Some(self.clone())
    }
}

/// `[registry/]path:tag` or `...@sha256:...`: something that names one build, so not without a tag and not `latest`.
pub fn is_pinned_image(image: &str) -> bool {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "._-/:@".contains(letter);
    if image.is_empty()
        || image.len() > 512
        || !image.chars().all(plain)
        || image.starts_with(['/', ':', '@', '-', '.'])
    {
        return false;
    }
    if let Some((name, digest)) = image.split_once('@') {
        let hex = digest.strip_prefix("sha256:").unwrap_or_default();
        return !name.is_empty() && hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    }
    let last = image.rsplit('/').next().unwrap_or_default();
    last.split_once(':')
        .is_some_and(|(name, tag)| !name.is_empty() && !tag.is_empty() && !tag.contains(':') && tag != "latest")
}

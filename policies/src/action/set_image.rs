//! Sets a container's image: to a named one, or to the last one that was seen to work.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Deed, Inapplicable, Setting, container_field, container_of, deed_in_one_file, named, source_of};
use crate::manifest;
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

/// An image without tag and digest.
fn repository(image: &str) -> &str {
    let name = image.split_once('@').map_or(image, |(name, _)| name);
    match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => name,
    }
}

impl SetImage {
    pub(super) fn deed(&self, setting: &Setting<'_>) -> Result<Deed, Inapplicable> {
        let before = source_of(setting)?;
        let container = container_of(self.container.as_deref(), setting, before)?;
        let field = container_field(&container, &["image"]);
        let object = setting.target.object();
        let Some(now) = manifest::value(before, &object, &field)? else {
            return Err(Inapplicable::because(format!("{container} has no image in {}", before.path)));
        };
        let measures = &setting.cause.measures;
        if let Some(bad) = measures.get("image.bad")
            && *bad != now
        {
            let (bad, now) = (quoted(bad), quoted(&now));
            let sentence =
                format!("{bad} is to blame, but {} names {now} now: somebody has changed it already", before.path);
            return Err(Inapplicable::because(sentence));
        }
        let next = match (&self.to, measures.get("image.good")) {
            (Some(image), _) => image,
            (None, Some(image)) if repository(image) != repository(&now) => {
                let sentence = format!(
                    "the last good image {} comes from another repository than {}",
                    quoted(image),
                    quoted(&now)
                );
                return Err(Inapplicable::because(sentence));
            }
            (None, Some(image)) => image,
            (None, None) => return Err(Inapplicable::because("no earlier image is known to have worked; set to")),
        };
        if !is_pinned_image(next) {
            return Err(Inapplicable::because(format!(
                "{} does not name one build: a tag or digest is needed",
                quoted(next)
            )));
        }
        if *next == now {
            return Err(Inapplicable::because(format!("{container} runs {} already", quoted(next))));
        }
        let edited = manifest::set(before, &object, &field, next)?;
        let summary = format!("set the image of {container} in {} from {now} to {next}", named(&object));
        Ok(deed_in_one_file(summary, setting, before, edited.file, vec![edited.edit]))
    }
}

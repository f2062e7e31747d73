//! The namespace that an object of a file comes to.
//!
//! A Flux `Kustomization` with `spec.targetNamespace` and a `kustomization.yaml` with `namespace` put every object of what they
//! apply into theirs, whatever the files say; of several, the outermost counts, and Flux stands outside of all.
//! <https://fluxcd.io/flux/components/kustomize/kustomizations/#target-namespace>
//! <https://kubectl.docs.kubernetes.io/references/kustomize/kustomization/namespace/>

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Kustomization, Kustomizations};
use crate::path::RepoPath;

/// Where an object comes to: what overrides its file, else what the file says, else `unsaid`.
pub fn home<'a>(overriding: Option<&'a str>, written: Option<&'a str>, unsaid: &'a str) -> &'a str {
    let said = |text: &&str| !text.is_empty();
    overriding.filter(said).or(written.filter(said)).unwrap_or(unsaid)
}

/// What overrides the namespaces of files, as one Flux `Kustomization` applies them.
#[derive(Clone, Debug, Default)]
pub struct Homes {
    /// `None`: nothing is applied, or nothing that is known to override.
    applied: Option<(Arc<Kustomizations>, RepoPath, Option<String>)>,
}

impl Homes {
    /// Files say themselves where their objects come to.
    pub fn as_written() -> Self {
        Self::default()
    }

    pub fn applied_by(kustomization: &Kustomization, kustomizations: Arc<Kustomizations>) -> Self {
        let Kustomization { folder, target_namespace, .. } = kustomization;
        Self { applied: Some((kustomizations, folder.clone(), target_namespace.clone())) }
    }

    /// What overrides a file, once for each way on which it is applied; `None`: nothing does on that way.
    ///
    /// # Errors
    /// A clause that names a kustomization which cannot be read, and may override it.
    pub fn overriding(&self, file: &RepoPath) -> Result<BTreeSet<Option<String>>, String> {
        let found = match &self.applied {
            Some((kustomizations, folder, outer)) => kustomizations.overriding(folder, outer.as_deref(), file)?,
            None => BTreeSet::new(),
        };
        Ok(if found.is_empty() { BTreeSet::from([None]) } else { found })
    }

    /// The one namespace that overrides a file, where one does.
    ///
    /// # Errors
    /// A clause about a file that comes to several namespaces, or what [`Homes::overriding`] says.
    pub fn only(&self, file: &RepoPath) -> Result<Option<String>, String> {
        let mut found = self.overriding(file)?.into_iter();
        match (found.next(), found.next()) {
            (Some(one), None) => Ok(one),
            (None, _) => Ok(None),
            (Some(_), Some(_)) => Err(format!("{file} is applied to several namespaces")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_overrides_counts_before_the_file_and_the_file_before_what_is_unsaid() {
        assert_eq!(home(Some("shop"), Some("staging"), "default"), "shop");
        assert_eq!(home(None, Some("staging"), "default"), "staging");
        assert_eq!(home(None, Some(""), "default"), "default");
        assert_eq!(home(Some(""), None, "default"), "default");
    }
}

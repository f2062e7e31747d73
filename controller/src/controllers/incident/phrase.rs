//! A summary by the optional model: asked for beside the work and never before it, kept beside the diagnosis and never in it.

use std::sync::Arc;

use amend_crds::{Incident, IncidentStatus};
use amend_diagnosis::diagnosis::Diagnosis;
use amend_diagnosis::opinion::{Opinion, menu};
use kube::ResourceExt;
use kube::api::Api;

use crate::effects::EffectError;
use crate::shell::Shell;

/// How often a lost write is repeated; a summary that still cannot be kept is not worth more.
const ATTEMPTS_MAX: u32 = 5;

/// The diagnosis to ask about: once for each menu of causes, whatever came of it.
pub fn due(status: &IncidentStatus, may_phrase: bool) -> Option<Box<Diagnosis>> {
    let diagnosis = status.diagnosis.as_ref().filter(|diagnosis| may_phrase && !diagnosis.causes.is_empty())?;
    let asked = status.opinion.as_ref().is_some_and(|opinion| opinion.about == menu(diagnosis));
    (!asked && !status.phase.is_end()).then(|| Box::new(diagnosis.clone()))
}

/// Asks beside everything else: nobody waits for the answer, and when it is lost nothing is missing.
pub fn ask(shell: &Arc<Shell>, object: &Incident, diagnosis: Diagnosis) {
    let Some(model) = shell.model.clone() else { return };
    let (shell, namespace, name) = (shell.clone(), object.namespace().unwrap_or_default(), object.name_any());
    let signals = object.status.as_ref().map(|status| status.signals.clone()).unwrap_or_default();
    let uid = object.uid();
    let question = format!("{namespace}/{name}");
    if !model.take_up(&question) {
        return;
    }
    tokio::spawn(async move {
        let opinion = model.opinion(&diagnosis, &signals).await;
        if let Some(why) = &opinion.unknown {
            tracing::debug!(incident = name, why, "the model said nothing of use");
        }
        for _ in 0..ATTEMPTS_MAX {
            match keep(&shell, &namespace, &name, uid.as_deref(), &opinion).await {
                Err(EffectError::Stale { .. }) => {}
                Ok(()) => break,
                Err(error) => {
                    tracing::debug!(incident = name, error = %error, "a summary was not kept");
                    break;
                }
            }
        }
        model.put_down(&question);
    });
}

async fn keep(
    shell: &Shell,
    namespace: &str,
    name: &str,
    uid: Option<&str>,
    opinion: &Opinion,
) -> Result<(), EffectError> {
    let api: Api<Incident> = Api::namespaced(shell.clients.reader(), namespace);
    let Ok(mut incident) = api.get(name).await else { return Ok(()) };
    let Some(status) = incident.status.as_mut() else { return Ok(()) };
    // Another incident of this name, or one that is diagnosed otherwise meanwhile: that one is asked about anew.
    let still = status.diagnosis.as_ref().is_some_and(|diagnosis| menu(diagnosis) == opinion.about);
    if incident.metadata.uid.as_deref() != uid || !still {
        return Ok(());
    }
    status.opinion = Some(opinion.clone());
    shell.effects.write_status(&incident).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use amend_diagnosis::diagnosis::Cause;
    use amend_diagnosis::entity::{Entity, EntityKind};
    use amend_diagnosis::graph::RootCauseGraph;

    use super::*;

    fn status(causes: &[&str]) -> IncidentStatus {
        let cause = |kind: &&str| Cause {
            kind: (*kind).to_owned(),
            entity: Entity::new(EntityKind::Deployment, "shop", "checkout"),
            change: None,
            confidence: 0.9,
            sentence: String::new(),
            facts_for: Vec::new(),
            facts_against: Vec::new(),
            measures: std::collections::BTreeMap::new(),
        };
        let diagnosis = Diagnosis {
            causes: causes.iter().map(cause).collect(),
            abstained: None,
            unexplained: Vec::new(),
            graph: RootCauseGraph::default(),
            slowest: Vec::new(),
            followed: None,
            stories: Vec::new(),
            deep: None,
            alignment: Default::default(),
            asked: Vec::new(),
        };
        IncidentStatus { diagnosis: Some(diagnosis), ..IncidentStatus::default() }
    }

    #[test]
    fn without_a_model_nothing_is_ever_asked() {
        assert!(due(&status(&["container.oom-killed"]), false).is_none());
    }

    #[test]
    fn a_menu_is_asked_about_once_and_another_one_anew() {
        let mut status = status(&["container.oom-killed"]);
        let asked = due(&status, true).expect("a new menu");
        status.opinion = Some(amend_diagnosis::opinion::heard("no JSON", &asked, "small"));
        assert!(due(&status, true).is_none(), "a failed answer is an answer");
        status.diagnosis.as_mut().unwrap().causes[0].kind = "release.bad-image".to_owned();
        assert!(due(&status, true).is_some());
    }
}

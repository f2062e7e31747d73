//! Autoscalers that cannot do what they are there for: blind, at their end, or in the wrong direction just before the trouble.
//!
//! An autoscaler at its maximum is what a surge, a slow callee and a greedy release all look like. It is told as a fact, and
//! weighs only where its target is seen to be short of what it needs.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::cluster::{Condition, conditions, kind_of, list, text};
use crate::diagnosis::cause;
use crate::entity::Entity;
use crate::finding::{Finding, Modality};
use crate::scene::{Scene, shifted};

use super::{metrics, unreached};

/// Its target is saturated, or the alert is about the autoscaler itself.
const SEEN: f64 = 3.0;
/// A fact beside others: too little to act on alone.
const FACT: f64 = 1.0;
/// It took the last pod, and calls find nobody.
const EMPTIED: f64 = 5.5;

/// How long before the first symptom fewer pods may matter.
const SCALED_BEFORE: SignedDuration = SignedDuration::from_mins(15);
/// How long before it a condition may have begun: pods are added for minutes before they are too few.
const BEGAN_BEFORE: SignedDuration = SignedDuration::from_hours(2);
/// The controller leaves a target alone within this share of the wanted value.
const TOLERANCE: f64 = 0.1;

pub fn findings(scene: &Scene<'_>) -> Vec<Finding> {
    let scalers = scene.cluster.others("HorizontalPodAutoscaler");
    if scalers.is_empty() {
        return Vec::new();
    }
    let saturated = metrics::saturated(scene);
    scalers.iter().flat_map(|object| Scaler::of(object).findings(scene, &saturated)).collect()
}

struct Scaler<'h> {
    object: &'h Value,
    name: &'h str,
    target: Entity,
    conditions: Vec<Condition>,
}

impl<'h> Scaler<'h> {
    fn of(object: &'h Value) -> Self {
        let kind = kind_of(text(object, "/spec/scaleTargetRef/kind"));
        let namespace = text(object, "/metadata/namespace");
        Self {
            object,
            name: text(object, "/metadata/name"),
            target: Entity::new(kind, namespace, text(object, "/spec/scaleTargetRef/name")),
            conditions: conditions(object),
        }
    }

    fn count(&self, pointer: &str) -> Option<i64> {
        self.object.pointer(pointer).and_then(Value::as_i64)
    }

    fn findings(&self, scene: &Scene<'_>, saturated: &BTreeSet<&Entity>) -> Vec<Finding> {
        let short = saturated.contains(&self.target);
        let weight = if short || self.is_alerted(scene) { SEEN } else { FACT };
        let told = [self.blind(), self.at_its_end(), self.shrank(scene)];
        let mut findings: Vec<Finding> = told
            .into_iter()
            .flatten()
            .filter(|(_, _, since)| since.is_none_or(|at| near(scene, at)))
            .map(|(fault, sentence, _)| self.finding(scene, cause::OVERLOAD, weight, sentence).fault(fault))
            .collect();
        findings.extend(self.emptied(scene));
        findings.extend(self.alone(scene));
        findings
    }

    fn finding(&self, scene: &Scene<'_>, kind: &'static str, weight: f64, sentence: String) -> Finding {
        Finding::new(self.target.clone(), kind, Modality::State, weight, sentence)
            .labelled("autoscaler")
            .asked(scene.questions().about(&["horizontalpodautoscalers", "HorizontalPodAutoscaler"]))
            .measure("autoscaler", self.name)
    }

    fn is_alerted(&self, scene: &Scene<'_>) -> bool {
        scene.observations.symptoms.iter().any(|signal| {
            let name = signal.name.to_ascii_lowercase();
            (name.contains("hpa") || name.contains("autoscal")) && scene.symptom_entity(&signal.entity) == self.target
        })
    }

    /// It cannot compute what is wanted. `ScalingDisabled` is no failure: somebody set the target to no replicas.
    fn blind(&self) -> Option<(&'static str, String, Option<Timestamp>)> {
        let active = self.conditions.iter().find(|one| one.kind == "ScalingActive" && one.status == "False");
        let active = active.filter(|one| one.reason != "ScalingDisabled");
        let able = self.conditions.iter().find(|one| one.kind == "AbleToScale" && one.status == "False");
        let condition = active.or(able.filter(|one| one.reason.starts_with("Failed")))?;
        let message: String = condition.message.chars().take(120).collect();
        let sentence =
            format!("autoscaler {} cannot scale {} ({}): {message}", self.name, self.target.name, condition.reason);
        Some(("autoscaler_blind", sentence, condition.since))
    }

    /// It wants more than it may, and what it measures is above what it should be.
    fn at_its_end(&self) -> Option<(&'static str, String, Option<Timestamp>)> {
        let limited =
            |one: &&Condition| one.kind == "ScalingLimited" && one.status == "True" && one.reason == "TooManyReplicas";
        let condition = self.conditions.iter().find(limited)?;
        let (most, now) = (self.count("/spec/maxReplicas")?, self.count("/status/currentReplicas")?);
        let (is, wanted) = self.measured().into_iter().find(|(is, wanted)| *is > wanted * (1.0 + TOLERANCE))?;
        let sentence = format!(
            "autoscaler {} holds {} at its maximum of {most} pods, which use {is:.0} % where {wanted:.0} % are wanted",
            self.name, self.target.name
        );
        (now >= most).then_some(("autoscaler_at_maximum", sentence, condition.since))
    }

    /// Use and wanted use of each resource, in per cent of the request.
    fn measured(&self) -> Vec<(f64, f64)> {
        let of = |value: &Value, place: &str| value.pointer(place).and_then(Value::as_f64);
        let wanted = list(self.object, "/spec/metrics")
            .iter()
            .filter_map(|one| Some((text(one, "/resource/name"), of(one, "/resource/target/averageUtilization")?)));
        let now = list(self.object, "/status/currentMetrics");
        let is = |name: &str| {
            let mut same = now.iter().filter(|one| text(one, "/resource/name") == name);
            same.find_map(|one| of(one, "/resource/current/averageUtilization"))
        };
        wanted.filter_map(|(name, wanted)| Some((is(name)?, wanted))).collect()
    }

    /// It took pods away shortly before the trouble.
    fn shrank(&self, scene: &Scene<'_>) -> Option<(&'static str, String, Option<Timestamp>)> {
        let onset = scene.onset?;
        let object = format!("HorizontalPodAutoscaler/{}", self.name);
        let events = scene.observations.events.known().into_iter().flatten();
        let shrank = events
            .filter(|event| event.object == object && event.namespace == self.target.namespace)
            .filter(|event| event.reason == "SuccessfulRescale" && event.message.contains("All metrics below target"))
            .filter(|event| (shifted(onset, -SCALED_BEFORE)..=onset).contains(&event.at))
            .max_by_key(|event| event.at)?;
        let lag = onset.duration_since(shrank.at).as_secs();
        let message: String = shrank.message.chars().take(80).collect();
        let sentence = format!(
            "autoscaler {} took pods from {} {lag} s before the first sign: {message}",
            self.name, self.target.name
        );
        Some(("autoscaler_scaled_down", sentence, Some(shrank.at)))
    }

    /// It may go down to no pod, and did, while calls find nobody.
    fn emptied(&self, scene: &Scene<'_>) -> Option<Finding> {
        let workload = scene.cluster.workload(&self.target).filter(|one| one.replicas == Some(0))?;
        let zero = self.count("/spec/minReplicas") == Some(0);
        let mut services = scene.cluster.services.iter();
        let lost = zero
            && services.any(|service| {
                scene.cluster.selected_by(service).as_ref() == Some(&workload.entity)
                    && unreached::service(scene, service, &workload.entity)
            });
        let sentence =
            format!("autoscaler {} left {} without a pod, and calls find nobody", self.name, self.target.name);
        lost.then(|| self.finding(scene, cause::SCALED_TO_ZERO, EMPTIED, sentence).fault("autoscaler_scaled_to_zero"))
    }

    /// It keeps one pod only, and that one is not ready: nobody takes over.
    fn alone(&self, scene: &Scene<'_>) -> Option<Finding> {
        let single =
            self.count("/spec/minReplicas").unwrap_or(1) == 1 && self.count("/status/currentReplicas") == Some(1);
        let mut pods = scene.cluster.pods_of(&self.target).filter(|pod| pod.phase == "Running").peekable();
        let down = single && pods.peek().is_some() && pods.all(|pod| !pod.is_ready());
        let sentence = format!("autoscaler {} keeps one pod of {}, which is not ready", self.name, self.target.name);
        down.then(|| self.finding(scene, cause::UNAVAILABLE, FACT, sentence))
    }
}

fn near(scene: &Scene<'_>, at: Timestamp) -> bool {
    scene.onset.is_none_or(|onset| at >= shifted(onset, -BEGAN_BEFORE))
}

//! What a policy may say about gates, and the same read and bounded.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::blast_radius::{BlastRadius, BlastRadiusRule};
use super::cooldown::{Cooldown, CooldownRule};
use super::expression::{Expression, ExpressionRule};
use super::fits::{Fits, FitsRule};
use crate::policy::Problems;

/// One entry of a policy's gates: exactly one of its fields is set.
///
/// A struct of options rather than an enum: an object that names two (or one we do not know) can still be read, gets its
/// sentence in the status and does not break the watch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "[has(self.permission), has(self.environment), has(self.blastRadius), has(self.rollback), has(self.fits), has(self.cooldown), has(self.expression)].filter(set, set).size() == 1",
    "message": "a gate is exactly one of permission, environment, blastRadius, rollback, fits, cooldown and expression; write each as its own list item"
}]))]
pub struct GateSettings {
    /// Runs always; listing it changes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permission: Option<Empty>,
    /// Runs always; listing it changes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<Empty>,
    /// Runs always; listing it tightens the bounds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blast_radius: Option<BlastRadius>,
    /// Runs always; listing it changes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback: Option<Empty>,
    /// The changed pods fit nodes, quotas and limit ranges.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fits: Option<Fits>,
    /// Enough time has passed since the last action.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cooldown: Option<Cooldown>,
    /// A condition of the author's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expression: Option<Expression>,
}

/// A gate without settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Empty {}

/// A gate with its settings read and bounded.
#[derive(Clone, Debug, PartialEq)]
pub enum Gate {
    Permission,
    Environment,
    BlastRadius(BlastRadiusRule),
    Rollback,
    Fits(FitsRule),
    Cooldown(CooldownRule),
    Expression(ExpressionRule),
}

impl GateSettings {
    /// Reads the one gate that is set; none and a problem when there are more, fewer, or a wrong text inside.
    pub(crate) fn compile(&self, path: &str, problems: &mut Problems) -> Option<Gate> {
        let set = [
            self.permission.is_some(),
            self.environment.is_some(),
            self.blast_radius.is_some(),
            self.rollback.is_some(),
            self.fits.is_some(),
            self.cooldown.is_some(),
            self.expression.is_some(),
        ];
        match set.iter().filter(|set| **set).count() {
            0 => {
                problems.add(path, "name one gate here: blastRadius, fits, cooldown or expression");
                return None;
            }
            1 => {}
            _ => {
                problems.add(path, "this item names several gates; write each as its own list item, with its own -");
                return None;
            }
        }
        if let Some(settings) = &self.blast_radius {
            return settings.compile(&format!("{path}.blastRadius"), problems).map(Gate::BlastRadius);
        }
        if let Some(settings) = &self.fits {
            return settings.compile(&format!("{path}.fits"), problems).map(Gate::Fits);
        }
        if let Some(settings) = &self.cooldown {
            return settings.compile(&format!("{path}.cooldown"), problems).map(Gate::Cooldown);
        }
        if let Some(settings) = &self.expression {
            return settings.compile(&format!("{path}.expression"), problems).map(Gate::Expression);
        }
        match (self.permission, self.environment) {
            (Some(_), _) => Some(Gate::Permission),
            (None, Some(_)) => Some(Gate::Environment),
            (None, None) => Some(Gate::Rollback),
        }
    }
}

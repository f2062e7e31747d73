//! Sets a container's memory or processor limit: by a factor up to a bound, or to a value.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::policy::Problems;
use crate::quantity::Quantity;

/// Settings of the action.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.memory) || has(self.cpu)", "message": "setResources needs memory or cpu"
}]))]
pub struct SetResources {
    /// The container; without it the one that the cause names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub container: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Amount>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Amount>,
}

/// The new value: the present limit times a factor, or a fixed one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.factor) != has(self.to)", "message": "give either factor (with max) or to"
}]))]
pub struct Amount {
    /// How many times the present limit, above 1 and at most 4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1.0, max = 4.0))]
    pub factor: Option<f64>,
    /// A fixed limit, such as 512Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    pub to: Option<String>,
    /// The limit is never set above this, whatever the factor says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    pub max: Option<String>,
}

/// The settings, read and bounded.
#[derive(Clone, Debug, PartialEq)]
pub struct ResourceRule {
    pub container: Option<String>,
    pub memory: Option<AmountRule>,
    pub cpu: Option<AmountRule>,
}

/// How one limit is computed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum AmountRule {
    Factor { factor: f64, max: Quantity },
    To { value: Quantity },
}

/// The largest factor: whoever needs more than four times the memory has another problem than a small limit.
const FACTOR_MAX: f64 = 4.0;

impl SetResources {
    pub(crate) fn compile(&self, path: &str, problems: &mut Problems) -> Option<ResourceRule> {
        if self.memory.is_none() && self.cpu.is_none() {
            problems.add(path, "say what to set: memory or cpu");
            return None;
        }
        let read = |name: &str, amount: &Option<Amount>, problems: &mut Problems| match amount {
            Some(amount) => amount.compile(&format!("{path}.{name}"), problems).map(Some),
            None => Some(None),
        };
        let (memory, cpu) = (read("memory", &self.memory, problems), read("cpu", &self.cpu, problems));
        Some(ResourceRule { container: self.container.clone(), memory: memory?, cpu: cpu? })
    }
}

impl Amount {
    fn compile(&self, path: &str, problems: &mut Problems) -> Option<AmountRule> {
        match (self.factor, &self.to, &self.max) {
            (Some(factor), None, Some(max)) => {
                let max = problems.keep(format!("{path}.max"), positive(max));
                if !(factor > 1.0 && factor <= FACTOR_MAX) {
                    problems.add(
                        format!("{path}.factor"),
                        format!(
                            "{factor} is out of bounds; write a number above 1 and at most {FACTOR_MAX}, such as 1.5"
                        ),
                    );
                    return None;
                }
                Some(AmountRule::Factor { factor, max: max? })
            }
            (Some(_), None, None) => {
                problems.add(path, "a factor needs max, such as 2Gi: without it repeated raises have no end");
                None
            }
            (None, Some(to), max) => {
                let value = problems.keep(format!("{path}.to"), positive(to))?;
                if let Some(max) = max {
                    let max = problems.keep(format!("{path}.max"), positive(max))?;
                    if value > max {
                        problems.add(format!("{path}.to"), format!("{value} is above max {max}"));
                        return None;
                    }
                }
                Some(AmountRule::To { value })
            }
            (Some(_), Some(_), _) => {
                problems.add(path, "give either factor (with max) or to, not both");
                None
            }
            (None, None, _) => {
                problems.add(path, "give either factor (with max) or to");
                None
            }
        }
    }
}

fn positive(text: &str) -> Result<Quantity, String> {
    match Quantity::parse(text)? {
        quantity if quantity.is_zero() => Err("zero is not a limit; write it like 512Mi".into()),
        quantity => Ok(quantity),
    }
}

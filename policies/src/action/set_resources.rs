//! Sets a container's memory or processor limit: by a factor up to a bound, or to a value.

use amend_diagnosis::diagnosis::cause;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Deed, Inapplicable, Setting, container_field, container_of, deed_in_one_file, named, source_of};
use crate::field::FieldPath;
use crate::manifest;
use crate::plan::{FieldEdit, SourceFile};
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

/// Room above the highest memory use that was measured.
///
/// A tenth for growth between garbage collections and a tenth for what a five-second scrape misses.
const ROOM_ABOVE_PEAK: f64 = 1.2;

impl ResourceRule {
    pub(super) fn deed(&self, setting: &Setting<'_>) -> Result<Deed, Inapplicable> {
        if self.memory.is_some() && setting.cause.kind == cause::MEMORY_LEAK {
            let sentence = "leak, not limit: memory grows steadily, so a higher limit only postpones the next kill";
            return Err(Inapplicable::because(sentence));
        }
        let before = source_of(setting)?;
        let container = container_of(self.container.as_deref(), setting, before)?;
        let mut file = before.clone();
        let mut edits = Vec::new();
        for (resource, rule) in [(Resource::Memory, self.memory), (Resource::Cpu, self.cpu)] {
            let Some(rule) = rule else { continue };
            let field = container_field(&container, &["resources", "limits", resource.key()]);
            let (now, next) = resource.next(rule, setting, &file, &container, &field)?;
            let edited = manifest::set(&file, &setting.target.object(), &field, &resource.show(next))?;
            let whose = if edits.is_empty() {
                format!(" of {container} in {}", named(&setting.target.object()))
            } else {
                String::new()
            };
            let from = now.map_or(String::new(), |now| format!(" from {}", resource.show(now)));
            let said = format!("the {} limit{whose}{from} to {}", resource.key(), resource.show(next));
            edits.push((edited.edit, said));
            file = edited.file;
        }
        let (edits, said): (Vec<FieldEdit>, Vec<String>) = edits.into_iter().unzip();
        let summary = format!("raise {}", said.join(" and "));
        Ok(deed_in_one_file(summary, setting, before, file, edits))
    }
}

/// Memory or processor time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resource {
    Memory,
    Cpu,
}

impl Resource {
    fn key(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
        }
    }

    fn show(self, amount: Quantity) -> String {
        match self {
            Self::Memory => amount.show_memory(),
            Self::Cpu => amount.show_cpu(),
        }
    }

    /// What people would write: 16 MiB steps below 1 GiB, 64 below 8, else 256; 50 millicores below a core, else 100.
    fn rounded(self, amount: Quantity) -> Quantity {
        let mebi = |count: u64| Quantity::whole(count << 20);
        let step = match self {
            Self::Memory if amount <= mebi(1024) => mebi(16),
            Self::Memory if amount <= mebi(8192) => mebi(64),
            Self::Memory => mebi(256),
            Self::Cpu if amount <= Quantity::whole(1) => Quantity::milli(50),
            Self::Cpu => Quantity::milli(100),
        };
        amount.round_up_to(step)
    }

    /// The limit now and the next one.
    fn next(
        self,
        rule: AmountRule,
        setting: &Setting<'_>,
        file: &SourceFile,
        container: &str,
        field: &FieldPath,
    ) -> Result<(Option<Quantity>, Quantity), Inapplicable> {
        let (key, shown) = (self.key(), |amount| self.show(amount));
        let read = |text: &str| Quantity::parse(text).map_err(Inapplicable::because);
        let now = manifest::value(file, &setting.target.object(), field)?.as_deref().map(read).transpose()?;
        let live = field.find(setting.live).map(plain_text);
        let live = live.as_deref().map(read).transpose()?;
        if now != live {
            let say = |amount: Option<Quantity>| amount.map_or("none".to_owned(), shown);
            return Err(Inapplicable::because(format!(
                "the {key} limit of {container} is {} in {} and {} in the cluster: something else sets it, or the last change is not applied yet",
                say(now),
                file.path,
                say(live)
            )));
        }
        let next = match (rule, now) {
            (AmountRule::To { value }, _) => value,
            (AmountRule::Factor { .. }, None) => {
                return Err(Inapplicable::because(format!(
                    "{container} has no {key} limit that a factor could raise; use to"
                )));
            }
            (AmountRule::Factor { factor, max }, Some(now)) => {
                let wanted = self.rounded(now.times(factor).max(self.least(setting)));
                if now >= max {
                    let sentence = format!(
                        "the {key} limit of {container} is {} already, the policy allows {} at most",
                        shown(now),
                        shown(max)
                    );
                    return Err(Inapplicable::because(sentence));
                }
                wanted.min(max)
            }
        };
        if now.is_some_and(|now| next <= now) {
            let sentence = format!(
                "the {key} limit of {container} is {} already, which is not below {}",
                now.map_or(String::new(), shown),
                shown(next)
            );
            return Err(Inapplicable::because(sentence));
        }
        let request = container_field(container, &["resources", "requests", key]);
        if let Some(request) = manifest::value(file, &setting.target.object(), &request)? {
            let request = read(&request)?;
            if request > next {
                let sentence = format!("a {key} limit of {} is below the request of {}", shown(next), shown(request));
                return Err(Inapplicable::because(sentence));
            }
        }
        Ok((now, next))
    }

    /// The least limit that the measured peak asks for; zero without a measure.
    fn least(self, setting: &Setting<'_>) -> Quantity {
        let peak = setting.cause.measures.get("memory.peakBytes").and_then(|peak| peak.parse::<f64>().ok());
        match (self, peak) {
            (Self::Memory, Some(bytes)) if bytes.is_finite() && bytes > 0.0 && bytes < 1e15 => {
                Quantity::whole(1).times(bytes * ROOM_ABOVE_PEAK)
            }
            (Self::Memory, _) | (Self::Cpu, _) => Quantity::whole(0),
        }
    }
}

fn plain_text(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

//! A condition of the policy author's own, in CEL.

use std::panic::{AssertUnwindSafe, catch_unwind};

use amend_diagnosis::evidence::Answer;
use cel::common::ast::{EntryExpr, Expr, IdedEntryExpr};
use cel::parser::Parser;
use cel::{Context, ExecutionError, IdedExpr, Value};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::GateFacts;
use crate::policy::{Problems, cleaned, quoted};
use crate::verdict::{GateName, Verdict};

/// Settings of the gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Expression {
    /// Must be true to pass. Sees incident, target and cause.
    #[schemars(length(min = 1, max = 1024))]
    pub cel: String,
    /// Shown when the expression is not true.
    #[schemars(length(min = 1, max = 256))]
    pub message: String,
}

/// An expression that compiles, stays within the bounds and refers to known variables only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpressionRule {
    cel: String,
    message: String,
}

impl Expression {
    pub(crate) fn compile(&self, path: &str, problems: &mut Problems) -> Option<ExpressionRule> {
        match ExpressionRule::read(&self.cel, &self.message) {
            Ok(rule) => Some(rule),
            Err((field, sentence)) => {
                problems.add(format!("{path}.{field}"), sentence);
                None
            }
        }
    }
}

/// What an expression may refer to.
const VARIABLES: [&str; 3] = ["incident", "target", "cause"];

/// What an expression may call: the standard functions; operators and macros are always there.
const FUNCTIONS: [&str; 11] =
    ["contains", "size", "max", "min", "startsWith", "endsWith", "string", "double", "int", "uint", "matches"];

/// Bytes of an expression. Longer ones belong into code with tests.
pub const LENGTH_MAX: usize = 1024;

/// How deep an expression may nest, so that neither the parser nor the evaluator can run out of stack.
const DEPTH_MAX: u16 = 32;

/// Loops (`all`, `exists`, `map`, `filter`) may not stand inside each other.
///
/// The lists that an expression sees hold at most a few hundred entries, so that one loop over an expression of
/// [`LENGTH_MAX`] bytes stays far below a millisecond per entry; two nested loops would not.
const LOOPS_MAX: u32 = 1;

impl ExpressionRule {
    /// Reads an expression and bounds its cost.
    ///
    /// # Errors
    /// The setting (`cel` or `message`) and what is wrong with it.
    pub fn read(cel: &str, message: &str) -> Result<Self, (&'static str, String)> {
        if message.trim().is_empty() {
            return Err((
                "message",
                "say in a sentence what the expression asks for: people see it when it is not true".into(),
            ));
        }
        if cel.trim().is_empty() {
            return Err(("cel", "the expression is empty".into()));
        }
        if cel.len() > LENGTH_MAX {
            return Err(("cel", format!("the expression has {} bytes, at most {LENGTH_MAX} are allowed", cel.len())));
        }
        parsed(cel).and_then(|tree| check(&tree, &mut Vec::new(), 0)).map_err(|sentence| ("cel", sentence))?;
        Ok(Self { cel: cel.into(), message: message.into() })
    }
}

/// The parsed expression; the parser is third-party code that has panicked on odd input before, so a panic is an error.
fn parsed(cel: &str) -> Result<IdedExpr, String> {
    if nesting(cel) > usize::from(DEPTH_MAX) {
        return Err(format!("the expression nests deeper than {DEPTH_MAX} levels"));
    }
    let parse = || Parser::new().max_recursion_depth(200).parse(cel);
    match catch_unwind(AssertUnwindSafe(parse)) {
        Ok(Ok(tree)) => Ok(tree),
        Ok(Err(errors)) => {
            let first = errors.errors.first();
            let what = first.map(|error| error.msg.lines().next().unwrap_or_default().to_owned()).unwrap_or_default();
            let column = first.map_or(0, |error| error.pos.1);
            Err(format!("the expression does not parse at column {column}: {}", quoted_long(&what)))
        }
        Err(_) => Err("the expression does not parse".into()),
    }
}

/// The deepest nesting of brackets, counted before parsing; brackets inside text count too, which only errs on the safe side.
fn nesting(cel: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    for byte in cel.bytes() {
        match byte {
            b'(' | b'[' | b'{' | b'!' | b'-' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

fn quoted_long(text: &str) -> String {
    cleaned(text, 160)
}

/// Refuses unknown names, unknown functions and nested loops. `scope` holds the variables that loops bring.
fn check(tree: &IdedExpr, scope: &mut Vec<String>, loops: u32) -> Result<(), String> {
    match &tree.expr {
        Expr::Unspecified | Expr::Literal(_) => Ok(()),
        Expr::Ident(name) => match VARIABLES.contains(&name.as_str()) || scope.contains(name) {
            true => Ok(()),
            false => Err(format!("the expression refers to {}; it can see incident, target and cause", quoted(name))),
        },
        Expr::Select(select) => check(&select.operand, scope, loops),
        Expr::Call(call) => {
            let name = call.func_name.as_str();
            let operator = name.contains('_') || name.starts_with('@');
            if !operator && !FUNCTIONS.contains(&name) {
                return Err(format!("the expression calls {}; it can call {}", quoted(name), FUNCTIONS.join(", ")));
            }
            call.target.iter().map(AsRef::as_ref).chain(&call.args).try_for_each(|part| check(part, scope, loops))
        }
        Expr::List(list) => list.elements.iter().try_for_each(|part| check(part, scope, loops)),
        Expr::Map(map) => map.entries.iter().try_for_each(|entry| check_entry(entry, scope, loops)),
        Expr::Struct(made) => made.entries.iter().try_for_each(|entry| check_entry(entry, scope, loops)),
        Expr::Comprehension(inner) => {
            if loops >= LOOPS_MAX {
                return Err("the expression has a loop inside a loop; write two gates instead".into());
            }
            check(&inner.iter_range, scope, loops)?;
            let outer = scope.len();
            scope.extend([inner.iter_var.clone(), inner.accu_var.clone()]);
            scope.extend(inner.iter_var2.clone());
            let parts = [&inner.accu_init, &inner.loop_cond, &inner.loop_step, &inner.result];
            let checked = parts.into_iter().try_for_each(|part| check(part, scope, loops + 1));
            scope.truncate(outer);
            checked
        }
    }
}

fn check_entry(entry: &IdedEntryExpr, scope: &mut Vec<String>, loops: u32) -> Result<(), String> {
    match &entry.expr {
        EntryExpr::StructField(field) => check(&field.value, scope, loops),
        EntryExpr::MapEntry(entry) => {
            check(&entry.key, scope, loops)?;
            check(&entry.value, scope, loops)
        }
    }
}

const GATE: GateName = GateName::Expression;

/// Judges the one question: the expression is true.
///
/// Sees `incident {severity, ageSeconds, signals [{name, source, severity, entity, labels}]}`,
/// `target` (the live object: `target.metadata.labels`, `target.spec` ...) and
/// `cause {kind, confidence, entity, measures}`.
pub fn evaluate(rule: &ExpressionRule, facts: &GateFacts, now: Timestamp) -> Verdict {
    let shown = quoted_long(&rule.message);
    let unknown = |why: String| Verdict::unknown(GATE, "cel", format!("cannot tell whether \"{shown}\" holds: {why}"));
    let tree = match parsed(&rule.cel) {
        Ok(tree) => tree,
        Err(why) => return unknown(why),
    };
    let mut context = Context::default();
    let mut variables = vec![("incident", incident(facts, now)), ("cause", cause(facts))];
    match &facts.target {
        Answer::Known(target) => variables.push(("target", target.clone())),
        Answer::Unknown { why } if tree.references().has_variable("target") => {
            return unknown(format!("the target could not be read: {why}"));
        }
        Answer::Unknown { .. } => {}
    }
    for (name, value) in variables {
        if context.add_variable(name, value).is_err() {
            return unknown(format!("{name} has no form that an expression can see"));
        }
    }
    match catch_unwind(AssertUnwindSafe(|| Value::resolve(&tree, &context))) {
        Ok(Ok(Value::Bool(true))) => Verdict::pass(GATE, "cel", format!("holds: {}", quoted_long(&rule.cel))),
        Ok(Ok(Value::Bool(false))) => Verdict::fail(GATE, "cel", shown),
        Ok(Ok(_)) => unknown("the expression gives neither true nor false".into()),
        Ok(Err(ExecutionError::NoSuchKey(key))) => {
            unknown(format!("there is no {}; ask with has() first", quoted(&key)))
        }
        Ok(Err(error)) => unknown(quoted_long(&error.to_string())),
        Err(_) => unknown("the expression could not be evaluated".into()),
    }
}

fn incident(facts: &GateFacts, now: Timestamp) -> serde_json::Value {
    let incident = &facts.incident;
    let signals: Vec<_> = incident
        .signals
        .iter()
        .map(|signal| {
            serde_json::json!({
                "name": signal.name, "source": signal.source, "severity": severity(signal.severity),
                "entity": signal.entity, "labels": signal.labels,
            })
        })
        .collect();
    serde_json::json!({
        "severity": severity(incident.severity),
        "ageSeconds": now.duration_since(incident.opened_at).as_secs(),
        "signals": signals,
    })
}

/// Lower case, as alert labels write it.
fn severity(severity: amend_diagnosis::signal::Severity) -> &'static str {
    match severity {
        amend_diagnosis::signal::Severity::Info => "info",
        amend_diagnosis::signal::Severity::Warning => "warning",
        amend_diagnosis::signal::Severity::Critical => "critical",
    }
}

fn cause(facts: &GateFacts) -> serde_json::Value {
    let cause = &facts.cause;
    serde_json::json!({
        "kind": cause.kind, "confidence": cause.confidence, "entity": cause.entity, "measures": cause.measures,
    })
}

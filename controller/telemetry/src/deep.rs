//! The second round: finer questions about few workloads, within a budget of questions, series, samples and time.
//!
//! What is asked was decided by [`amend_diagnosis::deep::finer`]. Whatever does not fit the budget, comes too late or is not held by
//! the store is `Unknown` with the reason, and brings nothing.

use std::time::Duration;

use amend_diagnosis::deep::Finer;
use amend_diagnosis::entity::EntityKind;
use amend_diagnosis::evidence::{Answer, Asked, LogLine, Series, Window};
use amend_diagnosis::metric::{finer, name, name_of};
use futures::future::{BoxFuture, FutureExt, join_all};
use tokio::time::Instant;

use crate::gather::{Windows, classed, derived, ending_now, merged, periods, step, unique_lines};
use crate::promql::literal;
use crate::questions::{LineFilter, LineQuestion, Measure, Resource, Selection, SeriesQuestion, Target};
use crate::source::{Reply, SourceKind};
use crate::sources::{Sources, in_time};

/// How much a second round may cost, over all stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Queries that are sent.
    pub queries: usize,
    pub series: usize,
    /// Samples and log lines together.
    pub samples: usize,
    /// From the first query to the last answer.
    pub within: Duration,
}

impl Default for Budget {
    /// Less than a first round costs: about few workloads, and people wait.
    fn default() -> Self {
        Self { queries: 64, series: 1_000, samples: 250_000, within: Duration::from_secs(10) }
    }
}

/// Lines of one workload and window.
const LINES: usize = 500;

/// Something to be asked about a workload, or about several nodes.
#[derive(Clone, Debug, PartialEq)]
pub struct About {
    pub finer: Finer,
    pub targets: Vec<Target>,
}

/// What the stores answered, to be added to the first round's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Deepened {
    /// Under the names of [`finer`].
    pub series: Vec<Series>,
    pub logs: Vec<LogLine>,
    pub asked: Vec<Asked>,
}

/// Asks all of it at once and stops waiting at the end of the budget.
pub async fn deepen(sources: &Sources, about: &[About], windows: Windows, budget: Budget) -> Deepened {
    let end = Instant::now() + budget.within;
    let mut queries = metric_queries(sources, about, windows, end);
    let mut lines = line_queries(sources, about, windows, end);
    let spare = budget.queries.saturating_sub(queries.len());
    let unasked = lines.split_off(spare.min(lines.len())).into_iter().map(|query| query.plan);
    let mut beyond: Vec<Plan> = unasked.collect();
    beyond.extend(queries.split_off(budget.queries.min(queries.len())).into_iter().map(|query| query.plan));
    let (series, lines) = futures::join!(
        join_all(queries.into_iter().map(|query| async move { (query.plan, query.asking.await) })),
        join_all(lines.into_iter().map(|query| async move { (query.plan, query.asking.await) })),
    );
    let mut left = Left { series: budget.series, samples: budget.samples };
    let mut deepened = Deepened::default();
    for (plan, reply) in series {
        let reply = reply.map(|found| named(found, plan.finer));
        let held = left.held(reply, |found| (found.len(), found.iter().map(|one| one.samples.len()).sum()));
        deepened.series.extend(held.answer.known().cloned().unwrap_or_default());
        deepened.asked.push(held.asked);
    }
    for (_, reply) in lines {
        let held = left.held(reply, |found| (0, found.len()));
        deepened.logs.extend(held.answer.known().cloned().unwrap_or_default());
        deepened.asked.push(held.asked);
    }
    for plan in beyond {
        let why = format!("not asked: a second round sends at most {} queries", budget.queries);
        deepened.asked.push(Reply::<()>::unknown(&plan.id, &plan.source, "", plan.window, why).asked);
    }
    deepened.series = merged(deepened.series);
    deepened.logs = classed(unique_lines(deepened.logs), sources);
    deepened
}

/// One query and what it is for.
struct Plan {
    id: String,
    source: String,
    window: Window,
    finer: Finer,
}

struct Query<'a, T> {
    plan: Plan,
    asking: BoxFuture<'a, Reply<Vec<T>>>,
}

/// Which measures answer a finer question.
fn measures(finer: Finer) -> &'static [Measure] {
    match finer {
        Finer::Pods => &[Measure::RequestsByPod, Measure::LatencyP99ByPod],
        Finer::Operations => &[Measure::RequestsByOperation, Measure::LatencyP99ByOperation],
        Finer::Versions => &[Measure::RequestsByVersion, Measure::LatencyP99ByVersion],
        Finer::Pressure => {
            &[Measure::Pressure(Resource::Cpu), Measure::Pressure(Resource::Memory), Measure::Pressure(Resource::Io)]
        }
        Finer::NodePressure => &[
            Measure::NodePressure(Resource::Cpu),
            Measure::NodePressure(Resource::Memory),
            Measure::NodePressure(Resource::Io),
        ],
        Finer::Lines => &[],
    }
}

fn metric_queries<'a>(sources: &'a Sources, about: &[About], windows: Windows, end: Instant) -> Vec<Query<'a, Series>> {
    let mut queries = Vec::new();
    for about in about {
        let Some((of, called)) = selection(about) else { continue };
        for measure in measures(about.finer) {
            for source in sources.holding(SourceKind::holds_metrics) {
                for (period, window) in periods(windows) {
                    let step = step(window, source);
                    let window = ending_now(window, step);
                    let id = format!("{}/deep/{}/{called}{period}", source.config().name, measure.name());
                    let plan =
                        Plan { id: id.clone(), source: source.config().name.clone(), window, finer: about.finer };
                    let question = SeriesQuestion { id, measure: *measure, of: of.clone(), window, step };
                    let asking =
                        async move { in_time(source, &question.id, window, end, source.series(&question)).await };
                    queries.push(Query { plan, asking: asking.boxed() });
                }
            }
        }
    }
    queries
}

fn line_queries<'a>(sources: &'a Sources, about: &[About], windows: Windows, end: Instant) -> Vec<Query<'a, LogLine>> {
    let mut queries = Vec::new();
    for about in about.iter().filter(|about| about.finer == Finer::Lines) {
        let Some((of, called)) = selection(about) else { continue };
        for source in sources.holding(SourceKind::holds_logs) {
            for (period, window) in [("/normal", windows.normal), ("/fault", windows.fault)] {
                let id = format!("{}/deep/{}/{called}{period}", source.config().name, about.finer.name());
                let plan = Plan { id: id.clone(), source: source.config().name.clone(), window, finer: about.finer };
                let question = LineQuestion { id, of: of.clone(), window, only: LineFilter::All, lines: LINES };
                let asking = async move { in_time(source, &question.id, window, end, source.lines(&question)).await };
                queries.push(Query { plan, asking: asking.boxed() });
            }
        }
    }
    queries
}

/// What is asked about, and its name in ids.
fn selection(about: &About) -> Option<(Selection, String)> {
    let first = about.targets.first()?;
    if first.entity.kind == EntityKind::Node {
        let names: Vec<String> = about.targets.iter().map(|node| literal(&node.entity.name)).collect();
        let selection = Selection {
            namespace: String::new(),
            pods: names.join("|"),
            services: String::new(),
            service_names: Vec::new(),
            container: None,
            several: about.targets.len() > 1,
        };
        return Some((selection, "nodes".to_owned()));
    }
    let workload = Target { entity: first.entity.workload(), ..first.clone() };
    Some((Selection::one(&workload), format!("{}/{}", first.entity.namespace, first.entity.name)))
}

/// What of the budget is not used yet.
struct Left {
    series: usize,
    samples: usize,
}

impl Left {
    /// The reply, if it fits into what is left and says anything at all.
    fn held<T: Clone>(&mut self, mut reply: Reply<Vec<T>>, size: impl Fn(&[T]) -> (usize, usize)) -> Reply<Vec<T>> {
        let Answer::Known(found) = &reply.answer else { return reply };
        let (series, samples) = size(found);
        let why = match (found.is_empty(), series > self.series || samples > self.samples) {
            (true, _) => format!("{}: holds nothing of this kind", reply.asked.source),
            (false, true) => format!(
                "{}: the answer ({series} series, {samples} samples) is more than the second round may still take",
                reply.asked.source
            ),
            (false, false) => {
                self.series -= series;
                self.samples -= samples;
                return reply;
            }
        };
        reply.asked.digest.clear();
        reply.asked.unknown = Some(why.clone());
        Reply { answer: Answer::Unknown { why }, ..reply }
    }
}

/// The answer under the names of finer metrics; what is not finer than a workload is left out.
fn named(found: Vec<Series>, about: Finer) -> Vec<Series> {
    let (label, names): (&str, &[(&str, &str)]) = match about {
        Finer::Pods => (
            "pod",
            &[
                (name::ERROR_RATIO, finer::POD_ERROR_RATIO),
                (name::REQUEST_RATE, finer::POD_REQUEST_RATE),
                (name::LATENCY_P99, finer::POD_LATENCY_P99),
            ],
        ),
        Finer::Operations => (
            finer::OPERATION,
            &[
                (name::ERROR_RATIO, finer::OPERATION_ERROR_RATIO),
                (name::REQUEST_RATE, finer::OPERATION_REQUEST_RATE),
                (name::LATENCY_P99, finer::OPERATION_LATENCY_P99),
            ],
        ),
        Finer::Versions => (
            finer::VERSION,
            &[
                (name::ERROR_RATIO, finer::VERSION_ERROR_RATIO),
                (name::REQUEST_RATE, finer::VERSION_REQUEST_RATE),
                (name::LATENCY_P99, finer::VERSION_LATENCY_P99),
            ],
        ),
        Finer::Pressure | Finer::NodePressure => ("resource", &[(finer::PRESSURE, finer::PRESSURE)]),
        Finer::Lines => return Vec::new(),
    };
    let told = |series: &Series| series.labels.get(label).is_some_and(|value| !value.is_empty());
    let renamed = derived(found).into_iter().filter(told).filter_map(|mut series| {
        let (_, ours) = names.iter().find(|(theirs, _)| *theirs == name_of(&series.labels))?;
        series.labels.insert("__name__".to_owned(), (*ours).to_owned());
        // A node that is known by the address that was scraped: the port says nothing.
        if let Some(node) = series.labels.get_mut("node")
            && let Some((name, port)) = node.rsplit_once(':')
            && port.bytes().all(|byte| byte.is_ascii_digit())
        {
            *node = name.to_owned();
        }
        Some(series)
    });
    renamed.collect()
}

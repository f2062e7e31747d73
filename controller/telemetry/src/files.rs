//! Stores that are directories of files: read within the deadline, then asked in memory.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use amend_diagnosis::evidence::{LogLine, Series, Span, TopologyEdge, Window};
use futures::future::FutureExt;
use jiff::SignedDuration;
use tokio::sync::Semaphore;

use crate::alert::{AlertQuestion, AlertState};
use crate::connection::clean;
use crate::egress::{Egress, Readable};
use crate::held::{Answered, Held};
use crate::history::HistoryQuestion;
use crate::measured::measured;
use crate::measures;
use crate::questions::{Exemplar, ExemplarQuestion, LineQuestion, SeriesQuestion, TraceQuestion, WholeTraceQuestion};
use crate::source::{Asking, Source, SourceConfig, SourceError, Told};

/// What reads the files of one kind.
pub(crate) trait Reads: fmt::Debug + Send + Sync + 'static {
    /// Everything that the files tell, as far as the limits allow; one reading may serve many questions.
    fn held(&self, directory: &Path, config: &SourceConfig, until: Instant) -> Result<Arc<Held>, SourceError>;

    /// Whether series go by our own names, as answers that were kept.
    fn tells_answers(&self, _directory: &Path) -> bool {
        false
    }
}

/// A directory that can be asked.
#[derive(Debug)]
pub(crate) struct Files<R> {
    config: Arc<SourceConfig>,
    directory: Arc<Readable>,
    reader: Arc<R>,
    slots: Semaphore,
}

impl<R: Reads> Files<R> {
    /// # Errors
    /// The egress guard lists no directory that this one lies in.
    pub fn open(config: SourceConfig, egress: &Egress, reader: R) -> Result<Self, SourceError> {
        let directory = egress.check_directory(&config.url).map_err(|source| SourceError::Refused { source })?;
        let slots = Semaphore::new(config.limits.concurrency.max(1));
        Ok(Self { config: Arc::new(config), directory: Arc::new(directory), reader: Arc::new(reader), slots })
    }

    /// Reads and answers on a thread that may wait, all within the deadline.
    async fn ask<T: Send + 'static>(
        &self,
        query: String,
        window: Option<Window>,
        answer: impl FnOnce(&Held, &SourceConfig, bool) -> Answered<T> + Send + 'static,
    ) -> Told<T> {
        let load = self.config.load.clone();
        let _turn = match &load {
            Some(load) => match load.turn().await {
                Some(turn) => Some(turn),
                None => return Told::new(query, Err(SourceError::Spent { budget: load.budget() })),
            },
            None => None,
        };
        let began = Instant::now();
        let (config, directory, reader) = (self.config.clone(), self.directory.clone(), self.reader.clone());
        let limit = config.limits.timeout;
        let until = began + limit;
        let exchange = async {
            // Closed never happens: the semaphore lives as long as we do.
            let _slot = self.slots.acquire().await.ok();
            let reading = tokio::task::spawn_blocking(move || {
                let real = real(&directory)?;
                let held = reader.held(&real, &config, until)?;
                window.map_or(Ok(()), |window| held.covers(window))?;
                answer(&held, &config, reader.tells_answers(&real))
            });
            let ended = |error: tokio::task::JoinError| SourceError::Malformed { why: clean(&error.to_string()) };
            reading.await.map_err(ended)?
        };
        let told = tokio::time::timeout(limit, exchange).await;
        if let Some(load) = &load {
            load.took(began.elapsed());
        }
        match told {
            Ok(Ok((found, dropped))) => Told { query, outcome: Ok(found), dropped },
            Ok(Err(error)) => Told::new(query, Err(error)),
            Err(_) => Told::new(query, Err(SourceError::TimedOut { after: limit })),
        }
    }

    fn about(&self, what: impl fmt::Display) -> String {
        format!("{what} in {}", self.config.url)
    }
}

/// Where the directory really lies: links may not lead out of what may be read.
fn real(directory: &Readable) -> Result<PathBuf, SourceError> {
    let unreadable = |error: std::io::Error| SourceError::Unreadable {
        path: directory.path.display().to_string(),
        why: clean(&error.to_string()),
    };
    let root = directory.root.canonicalize().map_err(unreadable)?;
    let real = directory.path.canonicalize().map_err(unreadable)?;
    match real.starts_with(&root) && real.is_dir() {
        true => Ok(real),
        false => {
            let why = "it is no directory, or a link leads out of what may be read".to_owned();
            Err(SourceError::Unreadable { path: directory.path.display().to_string(), why })
        }
    }
}

impl<R: Reads> Source for Files<R> {
    fn config(&self) -> &SourceConfig {
        &self.config
    }

    fn probe(&self) -> Asking<'_, Duration> {
        let began = Instant::now();
        self.ask(self.about("everything"), None, move |_, _, _| Ok((began.elapsed(), 0))).boxed()
    }

    fn series<'a>(&'a self, question: &'a SeriesQuestion) -> Asking<'a, Vec<Series>> {
        let question = question.clone();
        let forms = measures::forms(&question, &self.config.mapping, self.config.sample_every * 4, question.step);
        let query = forms.first().map(|form| form.query.to_string()).unwrap_or_default();
        self.ask(query, Some(question.window), move |held, config, answers| {
            let (series, dropped) = match answers {
                true => {
                    let names = measures::told_as(question.measure);
                    held.under_our_names(&names, &question.of, question.measure, question.window)?
                }
                false => evaluated(held, config, &question, &forms)?,
            };
            let limits = &config.limits;
            if series.len() > limits.series {
                return Err(SourceError::TooMany { limit: limits.series, what: "series" });
            }
            if series.iter().map(|one| one.samples.len()).sum::<usize>() > limits.samples {
                return Err(SourceError::TooMany { limit: limits.samples, what: "samples" });
            }
            let asked = |one: Series| Series { asked: question.id.clone(), ..one };
            Ok((series.into_iter().map(asked).collect(), dropped))
        })
        .boxed()
    }

    fn traces<'a>(&'a self, question: &'a TraceQuestion) -> Asking<'a, Vec<Span>> {
        let query = self.about(format_args!("{} traces of {:?}", question.traces, clean(&question.service)));
        let question = question.clone();
        self.ask(query, Some(question.window), move |held, config, _| held.traces(&question, config)).boxed()
    }

    fn exemplars<'a>(&'a self, question: &'a ExemplarQuestion) -> Asking<'a, Vec<Exemplar>> {
        let query = self.about(format_args!("exemplars of {}", clean(&question.of.services)));
        let question = question.clone();
        self.ask(query, Some(question.window), move |held, config, _| held.exemplars(&question, config)).boxed()
    }

    fn whole_trace<'a>(&'a self, question: &'a WholeTraceQuestion) -> Asking<'a, Vec<Span>> {
        let query = self.about(format_args!("trace {}", clean(&question.trace)));
        let question = question.clone();
        self.ask(query, Some(question.window), move |held, config, _| held.whole_trace(&question, config)).boxed()
    }

    fn calls(&self, window: Window) -> Asking<'_, Vec<TopologyEdge>> {
        self.ask(self.about("calls"), Some(window), move |held, _, _| held.calls(window)).boxed()
    }

    fn lines<'a>(&'a self, question: &'a LineQuestion) -> Asking<'a, Vec<LogLine>> {
        let query = self.about(format_args!("{} lines of {}", question.lines, clean(&question.of.pods)));
        let question = question.clone();
        self.ask(query, Some(question.window), move |held, config, _| held.lines(&question, config)).boxed()
    }

    fn line_counts<'a>(&'a self, question: &'a LineQuestion, step: SignedDuration) -> Asking<'a, Vec<Series>> {
        let query = self.about(format_args!("count of lines of {}", clean(&question.of.pods)));
        let question = question.clone();
        self.ask(query, Some(question.window), move |held, _, _| held.line_counts(&question, step)).boxed()
    }

    fn alert_state<'a>(&'a self, question: &'a AlertQuestion) -> Asking<'a, AlertState> {
        let query = self.about(format_args!("alert {:?}", clean(&question.name)));
        let question = question.clone();
        self.ask(query, None, move |held, _, _| held.alert(&question)).boxed()
    }

    fn alerts_fired<'a>(&'a self, question: &'a HistoryQuestion) -> Asking<'a, Vec<Series>> {
        let window = question.window;
        let why = "which alerts fired when is kept by Prometheus alone".to_owned();
        self.ask(self.about("ALERTS"), Some(window), move |_, _, _| Err(SourceError::Absent(why))).boxed()
    }
}

/// What the forms of a measure find; unknown where the files hold none of their metrics.
fn evaluated(
    held: &Held,
    config: &SourceConfig,
    question: &SeriesQuestion,
    forms: &[measures::Form],
) -> Answered<Vec<Series>> {
    // Everything is in memory: nothing is waited for.
    let told = measured(held, config, question).now_or_never();
    let Told { outcome, dropped, .. } =
        told.ok_or_else(|| SourceError::Malformed { why: "the files were not ready".to_owned() })?;
    let series = outcome?;
    if series.is_empty() {
        let mut there = false;
        for form in forms {
            there |= held.is_held(&form.query)?;
        }
        if !there {
            return Err(SourceError::Absent(format!("no file holds a metric of {}", question.measure.name())));
        }
    }
    Ok((series, dropped))
}

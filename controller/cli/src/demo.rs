//! `amend demo`: the production controller against a world in a box, told live.
//!
//! What is told is read from the API, as any user could; the demo knows the scenario only to let the fault loose, to
//! press *merge*, and to judge whether the story ended as it should.

mod report;
mod seen;
mod setting;
mod stay;
mod story;
mod teller;
mod tempo;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use amend_controller::records;
use amend_controller::self_telemetry::{LogFormat, Speaking, Voice, speak};
use amend_controller::time::Time;
use amend_crds::{Incident, Remediation};
use amend_execution::journal::{Entry, Event};
use amend_execution::record::{Summary, TrustRoot, verify};
use amend_sandbox::Scenario;
use anyhow::Context;
use clap::{Args, ValueEnum};
use futures::{Stream, StreamExt};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use kube::api::Api;
use kube::runtime::{WatchStreamExt, watcher};

use report::{PullRequestReport, Report, pulls};
use seen::Seen;
use setting::{RELEASE_NAMESPACE, Setting};
use story::{STORIES, Story};
use teller::Teller;

/// Story time while Amend works: its own second must not become a minute of the story.
const WORKING: f64 = 6.0;

/// How long a reviewer reads before pressing merge, in story time. Shorter than this no team merges, and rates over a few
/// minutes have not yet seen how bad it is.
const REVIEWED_WITHIN: SignedDuration = SignedDuration::from_mins(5);

/// Longest time that the story may take after the merge is out of the way, in real seconds.
const TOLD_WITHIN: Duration = Duration::from_secs(240);

/// How long we wait for somebody to press *merge* when nobody can be seen at the terminal.
const MERGED_WITHIN: Duration = Duration::from_secs(60);

/// Shows the whole loop on an embedded world: an alert becomes a verified pull request.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Which story to tell
    #[arg(long, value_enum, default_value_t = Name::Oom)]
    scenario: Name,
    /// Press merge for you
    #[arg(long)]
    merge: bool,
    /// Shape of what is printed
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Seed of all chance in the world
    #[arg(long)]
    seed: Option<u64>,
    /// How many times faster than the wall story time flows while nothing but time is needed
    #[arg(long, default_value_t = 40.0, value_parser = speed)]
    speed: f64,
}

/// The stories.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Name {
    /// Memory limit too small for a release; raised by one line
    Oom,
    /// A guilty and an innocent release; only the guilty one is reverted
    BadRelease,
    /// A commit that changed only a ConfigMap; it is reverted, and the pods take it up
    BadConfig,
    /// The change does harm and is taken back
    BadFix,
    /// Telemetry dies after the merge; nobody calls it a success
    NoData,
    /// The change only restarts the pods; never a success
    Placebo,
    /// 500 alerts, one incident, one pull request
    Flood,
}

impl Name {
    fn word(self) -> &'static str {
        match self {
            Self::Oom => "oom",
            Self::BadRelease => "bad-release",
            Self::BadConfig => "bad-config",
            Self::BadFix => "bad-fix",
            Self::NoData => "no-data",
            Self::Placebo => "placebo",
            Self::Flood => "flood",
        }
    }
}

/// How the story is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Live, for people
    Text,
    /// One object at the end
    Json,
}

fn speed(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(speed) if (1.0..=200.0).contains(&speed) => Ok(speed),
        _ => Err(format!("`{text}` is not a number from 1 to 200")),
    }
}

/// Starts this program again, in its place, with one heap for all threads.
///
/// glibc gives each thread an arena of its own and hardly gives memory back: a whole world in one process then takes
/// 307 MiB at its peak and 172 MiB with one arena (`mallopt(3)`, `MALLOC_ARENA_MAX`), at the same pace. The variable is
/// read before `main`; when the program cannot be started again the demo runs on as it is.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn share_one_heap() {
    use std::os::unix::process::CommandExt;
    const ARENAS: &str = "MALLOC_ARENA_MAX";
    if std::env::var_os(ARENAS).is_none()
        && let Ok(program) = std::env::current_exe()
    {
        let error = std::process::Command::new(program).args(std::env::args_os().skip(1)).env(ARENAS, "1").exec();
        tracing::debug!(%error, "the demo keeps its many heaps");
    }
}

/// Other allocators have no such arenas.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn share_one_heap() {}

pub async fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let _speaking = logs()?;
    let name = arguments.scenario.word();
    let story = STORIES.iter().find(|story| story.name == name).context("this scenario has no story")?;
    let mut scenario = Scenario::named(name).context("the sandbox does not know this scenario")?;
    if let Some(seed) = arguments.seed {
        scenario.seed = seed;
        scenario.graph.seed = seed;
    }
    let mut stage = Stage {
        story,
        arguments,
        teller: Teller::new(arguments.format),
        seen: Seen::default(),
        pressed: Vec::new(),
        reviewing: None,
        asked: None,
    };
    stage.teller.line(&format!("amend demo, scenario {name}: {}", story.fault));
    stage.teller.line("a cluster, its telemetry, a forge and 100 minutes of history are being made ...");
    let setting = tokio::select! {
        made = Setting::start(scenario, Instant::now()) => made?,
        // What was made so far is taken away by its owners; a signal that kills leaves their folders behind.
        _ = tokio::signal::ctrl_c() => {
            stage.teller.line("interrupted before the story began");
            return Ok(ExitCode::FAILURE);
        }
    };
    let end = stage.play(&setting).await?;
    let record = stage.record(&setting).await;
    // How a story ends that was cut short says nothing.
    let mut wrong = match end {
        End::Told | End::TooLong => stage.story.complaints(&stage.seen),
        End::NobodyMerged | End::Interrupted => Vec::new(),
    };
    match (&record, end) {
        (Err(why), _) => wrong.push(format!("the record should verify: {why}")),
        (Ok(_), _) => {}
    }
    wrong.extend(match end {
        End::Told => None,
        End::NobodyMerged => {
            Some("nobody merged the pull request; press merge on its page, or run with --merge".into())
        }
        End::TooLong => Some(format!("the story did not end within {} s", TOLD_WITHIN.as_secs())),
        End::Interrupted => Some("it was interrupted".into()),
    });
    match arguments.format {
        Format::Json => {
            let report = Report::of(story, &stage.seen, &setting.world, &setting.tempo, record.as_ref().ok());
            println!("{}", serde_json::to_string(&report)?);
            for complaint in &wrong {
                eprintln!("amend: {complaint}");
            }
        }
        Format::Text => {
            if let Ok(summary) = &record {
                stage
                    .teller
                    .line(&format!("\nrecord: {} entries, every signature and the chain verify", summary.entries));
            }
            for complaint in &wrong {
                stage.teller.line(&format!("NOT AS IT SHOULD BE: {complaint}"));
            }
            if wrong.is_empty() {
                let took = setting.tempo.elapsed().as_secs_f64();
                stage.teller.line(&format!("The story ended as it should, in {took:.0} s."));
            }
        }
    }
    if arguments.format == Format::Text && end != End::Interrupted && stay::somebody_watches() {
        stage.stay(&setting).await;
    }
    setting.stop().await;
    Ok(if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The controller's own logs, on standard error, for who asks for them with `RUST_LOG`.
fn logs() -> anyhow::Result<Option<Speaking>> {
    match std::env::var("RUST_LOG") {
        Ok(filter) if !filter.is_empty() => {
            let format = LogFormat::suited_to_stderr();
            Ok(Some(speak(&Voice { format, filter, otlp_endpoint: None, instance: "amend-demo".into() })?))
        }
        Ok(_) | Err(_) => Ok(None),
    }
}

/// Why the telling stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Told,
    NobodyMerged,
    TooLong,
    Interrupted,
}

/// Something new in the API.
enum News {
    Incident(Box<Incident>),
    Remediation(Box<Remediation>),
}

/// The telling of one story.
struct Stage<'a> {
    story: &'a Story,
    arguments: &'a Arguments,
    teller: Teller,
    seen: Seen,
    /// Pull requests on which we pressed merge.
    pressed: Vec<u64>,
    /// The pull request that is being read before we press merge, and since when in the story.
    reviewing: Option<(u64, Timestamp)>,
    /// Since when somebody is asked to press merge.
    asked: Option<Instant>,
}

impl Stage<'_> {
    async fn play(&mut self, setting: &Setting) -> anyhow::Result<End> {
        let tempo = &setting.tempo;
        self.teller.say(tempo, tempo.now(), "the shop runs, Amend watches");
        self.teller.detail(&format!("dashboard   {}", setting.dashboard));
        self.teller.detail(&format!("repository  {}", setting.endpoints.git));
        // What cargo built is on nobody's PATH.
        let amend = std::env::current_exe().map_or_else(|_| "amend".to_owned(), |path| path.display().to_string());
        let kubeconfig = setting.kubeconfig.display();
        self.teller.detail(&format!("other verbs KUBECONFIG={kubeconfig} {amend} get incidents -n shop"));
        let commits = setting.world.trigger().context("cannot let the fault loose")?;
        self.teller.begin(tempo.now());
        for (release, commit) in setting.world.scenario().releases.iter().zip(&commits) {
            let subject = release.message.lines().next().unwrap_or_default();
            self.teller.say(tempo, tempo.now(), &format!("{} pushes {}: {subject}", release.author, short(commit)));
        }
        tempo.flow(self.arguments.speed);
        let mut news = Box::pin(news(setting));
        let mut beat = tokio::time::interval(Duration::from_millis(200));
        let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
        let mut waited = Duration::ZERO;
        loop {
            tokio::select! {
                item = news.next() => match item {
                    Some(News::Incident(incident)) => self.incident(setting, *incident),
                    Some(News::Remediation(remediation)) => self.remediation(setting, *remediation)?,
                    None => anyhow::bail!("the sandbox's API server went away"),
                },
                _ = beat.tick() => {}
                _ = &mut interrupted => return Ok(End::Interrupted),
            }
            if self.story.is_over(&self.seen) {
                return Ok(End::Told);
            }
            self.merge(setting)?;
            if let Some(asked) = self.asked {
                waited = asked.elapsed();
                let somebody = std::io::stdin().is_terminal() && self.arguments.format == Format::Text;
                if !somebody && waited > MERGED_WITHIN {
                    return Ok(End::NobodyMerged);
                }
            } else if tempo.elapsed() > TOLD_WITHIN + waited {
                return Ok(End::TooLong);
            }
        }
    }

    fn incident(&mut self, setting: &Setting, incident: Incident) {
        let tempo = &setting.tempo;
        if self.seen.incidents.is_empty() {
            tempo.flow(WORKING.min(self.arguments.speed));
        }
        let uid = incident.metadata.uid.clone();
        self.seen.incident_changed(incident, tempo.elapsed());
        if let Some(current) = self.seen.incident().filter(|one| one.metadata.uid == uid) {
            self.teller.incident(tempo, tempo.now(), current, &setting.dashboard);
        }
    }

    fn remediation(&mut self, setting: &Setting, remediation: Remediation) -> anyhow::Result<()> {
        let uid = remediation.metadata.uid.clone();
        self.seen.remediations.insert(remediation.metadata.name.clone().unwrap_or_default(), remediation);
        let Some(current) = self.seen.remediation().filter(|one| one.metadata.uid == uid) else { return Ok(()) };
        for entry in self.teller.journal(&setting.tempo, current) {
            self.happened(setting, &entry);
        }
        Ok(())
    }

    /// What the world and the watcher have to do with an entry.
    fn happened(&mut self, setting: &Setting, entry: &Entry) {
        match &entry.event {
            Event::PullRequestOpened { url, number, .. } | Event::RevertOpened { url, number, .. } => {
                let found = pulls(&setting.world).into_iter().find(|pull| pull.number == *number);
                if let Some(pull) = found {
                    self.teller.detail(url.as_str());
                    self.teller.detail(PullRequestReport::of(&setting.world, &pull).diff());
                }
            }
            Event::Merged { .. } => {
                self.asked = None;
                if self.story.telemetry_dies {
                    setting.world.with_telemetry(|telemetry| telemetry.cut());
                    self.teller.say(&setting.tempo, entry.at, "every telemetry store goes silent");
                }
                setting.tempo.flow(self.arguments.speed);
            }
            Event::RevertMerged { .. } => {
                self.asked = None;
                setting.tempo.flow(self.arguments.speed);
            }
            _ => {}
        }
    }

    /// Presses merge on what is ready, or asks somebody to.
    fn merge(&mut self, setting: &Setting) -> anyhow::Result<()> {
        // A revert that was only prepared waits for a decision that is not ours.
        if self.seen.phase().is_none_or(|phase| phase.ending().is_some()) {
            return Ok(());
        }
        let ready = pulls(&setting.world).into_iter().find(|pull| {
            let known = self.seen.events().any(|event| match event {
                Event::PullRequestOpened { number, .. } | Event::RevertOpened { number, .. } => *number == pull.number,
                _ => false,
            });
            known && pull.open && !pull.is_draft() && !self.pressed.contains(&pull.number)
        });
        let Some(pull) = ready else { return Ok(()) };
        if self.arguments.merge {
            let now = setting.tempo.now();
            let (number, since) = *self.reviewing.get_or_insert((pull.number, now));
            if number != pull.number {
                self.reviewing = Some((pull.number, now));
                return Ok(());
            }
            if now.duration_since(since) < REVIEWED_WITHIN {
                setting.tempo.flow(self.arguments.speed);
                return Ok(());
            }
            setting.tempo.flow(WORKING.min(self.arguments.speed));
            self.pressed.push(pull.number);
            let commit = setting.world.merge(pull.number)?;
            self.teller.say(
                &setting.tempo,
                setting.tempo.now(),
                &format!("reviewer merges pull request {} as {}", pull.number, short(&commit)),
            );
        } else if self.asked.is_none() {
            self.asked = Some(Instant::now());
            setting.tempo.flow(1.0);
            let url = setting.world.forge().pull_url(&setting.endpoints.repository, pull.number);
            self.teller.line(&format!("\n  >> Your turn: review {url} and press merge there.\n"));
        }
        Ok(())
    }

    /// Keeps the world for a person at the terminal, who has read so far and wants to look around.
    async fn stay(&self, setting: &Setting) {
        setting.tempo.flow(1.0);
        let place = self
            .seen
            .incident()
            .map(|incident| format!("/incidents/{}/{}", incident.namespace().unwrap_or_default(), incident.name_any()));
        let url = format!("{}{}", setting.dashboard, place.unwrap_or_default());
        self.teller.line(&format!("\n  >> The shop runs on: look around at {url}; Enter or Ctrl-C ends it."));
        stay::until_enter_or_interrupt().await;
    }

    async fn record(&self, setting: &Setting) -> Result<Summary, String> {
        let export = records::export(&setting.client, RELEASE_NAMESPACE).await?;
        verify(&export.lines, &TrustRoot { key: export.key, seen: Vec::new() }).map_err(|bad| bad.to_string())
    }
}

fn news(setting: &Setting) -> impl Stream<Item = News> {
    let incidents: Api<Incident> = Api::all(setting.client.clone());
    let remediations: Api<Remediation> = Api::all(setting.client.clone());
    let incidents = watcher(incidents, watcher::Config::default())
        .default_backoff()
        .touched_objects()
        .filter_map(|item| async move { item.ok().map(|one| News::Incident(Box::new(one))) });
    let remediations = watcher(remediations, watcher::Config::default())
        .default_backoff()
        .touched_objects()
        .filter_map(|item| async move { item.ok().map(|one| News::Remediation(Box::new(one))) });
    futures::stream::select(incidents, remediations)
}

fn short(commit: &str) -> &str {
    commit.get(..10).unwrap_or(commit)
}

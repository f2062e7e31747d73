//! The production controller as a process of its own, and what it costs.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::fleet::{Fleet, Place};
use crate::bench::{Program, Run, amend_binary, free_port, until, web};

/// What Alertmanager shows at the door.
const TOKEN: &str = "figures-alertmanager-token";

/// From the start of the process until it leads: its lease is free.
const LEADS_WITHIN: Duration = Duration::from_secs(60);

/// A running controller.
#[derive(Debug)]
pub struct Product {
    program: Program,
    url: String,
    http: reqwest::Client,
    _folder: tempfile::TempDir,
}

/// Resident memory of the process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Memory {
    /// Now.
    pub mib: f64,
    /// The most that it ever was.
    pub peak_mib: f64,
}

impl Product {
    /// Starts it against a fleet and waits until it leads.
    ///
    /// # Errors
    /// When it does not lead in time: with the end of its log.
    pub async fn start(name: &str, fleet: &Fleet) -> anyhow::Result<Self> {
        let folder = Run::current()?.folder(name)?;
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).map(|()| path)
        };
        let kubeconfig = file("kubeconfig", &fleet.controller_kubeconfig())?;
        let token = file("token", TOKEN)?;
        let address = format!("127.0.0.1:{}", free_port()?);
        let program = Program::new(name, amend_binary().await?, folder.path())?
            .env("KUBECONFIG", kubeconfig)
            // As the chart sets it.
            .env("MALLOC_ARENA_MAX", "2")
            .env("MALLOC_TRIM_THRESHOLD_", "131072")
            .env("MALLOC_MMAP_THRESHOLD_", "131072")
            .args(["controller", "--listen", &address, "--egress-allow", "127.0.0.0/8", "--log-format", "text"])
            .arg("--scratch")
            .arg(folder.path().join("git"))
            .arg("--intake-token-file")
            .arg(token);
        program.start()?;
        let product = Self { program, url: format!("http://{address}"), http: web::client()?, _folder: folder };
        let leads = until("the controller to lead", LEADS_WITHIN, || async {
            let metrics = product.metrics().await?;
            Ok::<_, anyhow::Error>(metrics.contains("\namend_leader 1").then_some(()))
        });
        leads.await.with_context(|| product.program.log_end())?;
        Ok(product)
    }

    /// Sends one message of Alertmanager's webhook and gives the time until its answer, which says that all is stored.
    ///
    /// # Errors
    /// When the answer is no success.
    pub async fn send(&self, message: &Value) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let request = self.http.post(format!("{}/intake/alertmanager", self.url)).bearer_auth(TOKEN).json(message);
        let answer = request.send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        if !status.is_success() {
            bail!("the webhook answers {status}: {text}");
        }
        Ok(began.elapsed())
    }

    /// What the process costs now.
    ///
    /// # Errors
    /// When it does not run any more: with the end of its log.
    pub fn memory(&self) -> anyhow::Result<Memory> {
        let gone = || format!("the controller is gone; its log:\n{}", self.program.log_end());
        let pid = self.program.pid().with_context(gone)?;
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).with_context(gone)?;
        let mib = |field: &str| {
            let line = text.lines().find(|line| line.starts_with(field))?;
            line.split_whitespace().nth(1)?.parse::<f64>().ok().map(|kib| kib / 1024.0)
        };
        Ok(Memory { mib: mib("VmRSS:").with_context(gone)?, peak_mib: mib("VmHWM:").with_context(gone)? })
    }

    /// Its own metrics.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn metrics(&self) -> anyhow::Result<String> {
        Ok(self.http.get(format!("{}/metrics", self.url)).send().await?.text().await?)
    }

    /// The end of its log.
    #[must_use]
    pub fn log_end(&self) -> String {
        self.program.log_end()
    }
}

/// A firing alert about a service; `rule` makes several of one service differ.
#[must_use]
pub fn alert(place: &Place, rule: &str) -> Value {
    let Place { namespace, service } = place;
    json!({
        "status": "firing", "startsAt": Timestamp::now().to_string(),
        "labels": {"alertname": rule, "namespace": namespace, "deployment": service, "container": "app", "severity": "critical"},
        "annotations": {"summary": format!("{rule}: {service} of {namespace} was killed for memory")},
    })
}

/// One message with these alerts.
#[must_use]
pub fn message(alerts: &[Value]) -> Value {
    json!({"version": "4", "status": "firing", "receiver": "amend", "groupKey": "{}", "truncatedAlerts": 0, "alerts": alerts})
}

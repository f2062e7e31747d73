//! Who acts: leadership by a Lease.
//!
//! A lease is not a lock: a leader that was stopped for a minute and wakes up still believes in its lease. What keeps
//! such a zombie from acting is the epoch in the record head and the precondition on every effect; this file only
//! makes sure that somebody leads, and that a leader who cannot renew stops in time.
//!
//! Own code instead of `kube-lease-manager` 0.13: while the API server does not answer, that crate keeps saying
//! "leader" after the lease has run out, it takes over expired leases by a patch without a precondition, and it
//! compares the holder's wall clock with ours. Here, as in client-go, a lease counts as expired when *we* saw it
//! unchanged for its duration, and every write is a `replace` on the version read.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::PostParams;
use kube::{Api, Client};
use rand_core::{OsRng, RngCore};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// Which lease we want, and who we are.
#[derive(Clone, Debug)]
pub struct Candidacy {
    /// The release namespace.
    pub namespace: String,
    /// The Lease object, made when it is missing.
    pub lease: String,
    /// Unique for this process: a restarted process must not take itself for its predecessor, so a pod name is not enough.
    pub identity: String,
    pub pace: Pace,
}

impl Candidacy {
    /// A candidate of its own: two processes under one replica name are still two.
    pub fn new(namespace: impl Into<String>, lease: impl Into<String>, replica: &str) -> Self {
        let mut bytes = [0_u8; 8];
        OsRng.fill_bytes(&mut bytes);
        let identity = format!("{replica}_{}", hex::encode(bytes));
        Self { namespace: namespace.into(), lease: lease.into(), identity, pace: Pace::default() }
    }
}

/// How fast leadership changes hands.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Others may take a lease that they saw unchanged for so long.
    pub duration: Duration,
    /// A leader that has not renewed for so long stops. Shorter than `duration`, so that it stops before others start.
    pub give_up: Duration,
    /// Time between two looks at the lease.
    pub retry: Duration,
    /// Deadline of one call.
    pub call: Duration,
}

/// The usual times of Kubernetes' own components (client-go: 15 s, 10 s, 2 s).
///
/// A new leader works about 17 s after the old one was killed. An API server that is away for 10 s costs a restart; with 6 s it
/// did so on a node that was merely busy.
impl Default for Pace {
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(15),
            give_up: Duration::from_secs(10),
            retry: Duration::from_secs(2),
            call: Duration::from_secs(5),
        }
    }
}

/// Where we stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Another process leads, or nobody does yet.
    Following,
    Leading,
    /// We led and may no longer act. Final: the process must exit, since work of this term may still be under way.
    Lost {
        why: String,
    },
    /// We stepped down on shutdown. Final.
    Released,
}

impl Standing {
    pub fn leads(&self) -> bool {
        matches!(self, Self::Leading)
    }

    /// Whether this process will never lead again.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Lost { .. } | Self::Released)
    }
}

/// Stands for election until leadership is lost or `stop` is cancelled.
///
/// `client` must not retry inside (see [`crate::clients::Clients::effects`]). On cancellation the lease is released, so that
/// a standby takes over within its next look; cancel only after effects under way have ended.
pub fn campaign(
    client: Client,
    candidacy: Candidacy,
    stop: CancellationToken,
) -> (watch::Receiver<Standing>, JoinHandle<()>) {
    let (standing, seen) = watch::channel(Standing::Following);
    let leases = Api::namespaced(client, &candidacy.namespace);
    let task = tokio::spawn(Campaign { leases, candidacy, standing, rival: None }.run(stop));
    (seen, task)
}

struct Campaign {
    leases: Api<Lease>,
    candidacy: Candidacy,
    standing: watch::Sender<Standing>,
    /// The version of somebody else's lease, and since when it has not changed.
    rival: Option<(Option<String>, Instant)>,
}

impl Campaign {
    async fn run(mut self, stop: CancellationToken) {
        let Some((lease, renewed)) = self.win(&stop).await else {
            self.standing.send_replace(Standing::Released);
            return;
        };
        info!(lease = self.candidacy.lease, identity = self.candidacy.identity, "leading");
        self.standing.send_replace(Standing::Leading);
        let end = self.hold(lease, renewed, &stop).await;
        if let Standing::Lost { why } = &end {
            warn!(lease = self.candidacy.lease, why, "leadership lost, stopping");
        }
        self.standing.send_replace(end);
    }

    /// Looks at the lease until it is ours; `None` when stopped before.
    async fn win(&mut self, stop: &CancellationToken) -> Option<(Lease, Instant)> {
        loop {
            let started = Instant::now();
            match timeout(self.candidacy.pace.call, self.attempt()).await {
                Ok(Ok(Some(lease))) => return Some((lease, started)),
                Ok(Ok(None)) => {}
                Ok(Err(error)) => debug!(%error, "cannot take the lease yet"),
                Err(_) => debug!("the API server is late, cannot take the lease yet"),
            }
            tokio::select! {
                () = stop.cancelled() => return None,
                () = sleep(self.candidacy.pace.retry) => {}
            }
        }
    }

    /// One look: creates or takes the lease if it is free.
    async fn attempt(&mut self) -> Result<Option<Lease>, kube::Error> {
        let Some(mut lease) = self.leases.get_opt(&self.candidacy.lease).await? else {
            let mut lease = Lease::default();
            lease.metadata.name = Some(self.candidacy.lease.clone());
            lease.spec = Some(self.claim(None));
            return self.leases.create(&PostParams::default(), &lease).await.map(Some);
        };
        if !self.is_free(&lease) {
            return Ok(None);
        }
        lease.spec = Some(self.claim(lease.spec.as_ref()));
        self.leases.replace(&self.candidacy.lease, &PostParams::default(), &lease).await.map(Some)
    }

    fn is_free(&mut self, lease: &Lease) -> bool {
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
        if holder.is_empty() || holder == self.candidacy.identity {
            return true;
        }
        let version = lease.metadata.resource_version.clone();
        match &self.rival {
            Some((seen, since)) if *seen == version => since.elapsed() >= duration_of(lease, &self.candidacy.pace),
            Some(_) | None => {
                self.rival = Some((version, Instant::now()));
                false
            }
        }
    }

    /// Renews until it fails for too long, somebody else holds the lease, or we are stopped.
    async fn hold(&self, mut lease: Lease, mut renewed: Instant, stop: &CancellationToken) -> Standing {
        let pace = &self.candidacy.pace;
        loop {
            tokio::select! {
                () = stop.cancelled() => {
                    self.release(lease).await;
                    return Standing::Released;
                }
                () = sleep(pace.retry.min(pace.give_up.saturating_sub(renewed.elapsed()))) => {}
            }
            let left = pace.give_up.saturating_sub(renewed.elapsed());
            if left.is_zero() {
                return Standing::Lost { why: format!("the lease could not be renewed for {:?}", pace.give_up) };
            }
            let started = Instant::now();
            match timeout(left.min(pace.call), self.renew(&lease)).await {
                Ok(Ok(Some(newer))) => (lease, renewed) = (newer, started),
                Ok(Ok(None)) => return Standing::Lost { why: "another process took the lease".to_owned() },
                Ok(Err(error)) => debug!(%error, "cannot renew the lease"),
                Err(_) => debug!("the API server is late, cannot renew the lease"),
            }
        }
    }

    /// One renewal; `None` when the lease is no longer ours.
    async fn renew(&self, lease: &Lease) -> Result<Option<Lease>, kube::Error> {
        let mut next = lease.clone();
        if let Some(spec) = &mut next.spec {
            spec.renew_time = Some(MicroTime(Timestamp::now()));
        }
        match self.leases.replace(&self.candidacy.lease, &PostParams::default(), &next).await {
            Ok(lease) => Ok(Some(lease)),
            // A reply that was lost may have been our own renewal: look before giving up.
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let live = self.leases.get(&self.candidacy.lease).await?;
                let ours = live.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref())
                    == Some(self.candidacy.identity.as_str());
                Ok(ours.then_some(live))
            }
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn release(&self, mut lease: Lease) {
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
        }
        let params = PostParams::default();
        let call = self.leases.replace(&self.candidacy.lease, &params, &lease);
        match timeout(self.candidacy.pace.call, call).await {
            Ok(Ok(_)) => info!(lease = self.candidacy.lease, "leadership released"),
            Ok(Err(error)) => warn!(%error, "cannot release the lease, a standby waits for it to expire"),
            Err(_) => warn!("the API server is late, a standby waits for the lease to expire"),
        }
    }

    fn claim(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let transitions = before.and_then(|spec| spec.lease_transitions).unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.candidacy.identity.clone()),
            lease_duration_seconds: Some(
                i32::try_from(self.candidacy.pace.duration.as_secs().max(1)).unwrap_or(i32::MAX),
            ),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            lease_transitions: Some(if before.is_some() { transitions.saturating_add(1) } else { 0 }),
            ..LeaseSpec::default()
        }
    }
}

/// How long the holder asked to be believed: its own word, at least ours, so that a short word does not speed us up.
fn duration_of(lease: &Lease, pace: &Pace) -> Duration {
    let asked = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds).unwrap_or(0);
    Duration::from_secs(u64::try_from(asked).unwrap_or(0)).max(pace.duration)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::Mutex;

    use axum::extract::State;
    use axum::http::StatusCode;
    use axum::response::{IntoResponse, Response};
    use axum::routing::get;
    use axum::{Json, Router};
    use kube::Config;
    use serde_json::{Value, json};

    use super::*;
    use crate::clients::Clients;

    /// One lease with the API server's compare-and-swap; can be made to hang.
    #[derive(Clone, Default)]
    struct LeaseServer {
        lease: Arc<Mutex<Option<Lease>>>,
        silent: Arc<Mutex<bool>>,
    }

    impl LeaseServer {
        async fn client(&self) -> Client {
            const ONE: &str = "/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{name}";
            const ALL: &str = "/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases";
            let app = Router::new()
                .route(ONE, get(read).put(replace))
                .route(ALL, axum::routing::post(create))
                .with_state(self.clone());
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(async move { axum::serve(listener, app).await });
            Clients::new(Config::new(format!("http://{address}").parse().unwrap())).unwrap().effects()
        }

        fn holder(&self) -> String {
            let lease = self.lease.lock().unwrap().clone().unwrap_or_default();
            lease.spec.and_then(|spec| spec.holder_identity).unwrap_or_default()
        }

        async fn answer(&self) {
            let silent = *self.silent.lock().unwrap();
            if silent {
                std::future::pending::<()>().await;
            }
        }
    }

    fn refusal(code: u16, reason: &str) -> Response {
        let body: Value = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": reason});
        (StatusCode::from_u16(code).unwrap(), Json(body)).into_response()
    }

    async fn read(State(server): State<LeaseServer>) -> Response {
        server.answer().await;
        match server.lease.lock().unwrap().clone() {
            Some(lease) => Json(lease).into_response(),
            None => refusal(404, "NotFound"),
        }
    }

    async fn create(State(server): State<LeaseServer>, Json(mut lease): Json<Lease>) -> Response {
        server.answer().await;
        let mut held = server.lease.lock().unwrap();
        if held.is_some() {
            return refusal(409, "AlreadyExists");
        }
        lease.metadata.resource_version = Some("1".to_owned());
        *held = Some(lease.clone());
        Json(lease).into_response()
    }

    async fn replace(State(server): State<LeaseServer>, Json(mut lease): Json<Lease>) -> Response {
        server.answer().await;
        let mut held = server.lease.lock().unwrap();
        let version = held.as_ref().and_then(|lease| lease.metadata.resource_version.clone());
        if lease.metadata.resource_version != version {
            return refusal(409, "Conflict");
        }
        let next = version.and_then(|version| version.parse::<u64>().ok()).unwrap_or(0) + 1;
        lease.metadata.resource_version = Some(next.to_string());
        *held = Some(lease.clone());
        Json(lease).into_response()
    }

    fn candidacy(identity: &str) -> Candidacy {
        let pace = Pace {
            duration: Duration::from_millis(1000),
            give_up: Duration::from_millis(400),
            retry: Duration::from_millis(20),
            call: Duration::from_millis(200),
        };
        Candidacy { namespace: "amend".to_owned(), lease: "amend".to_owned(), identity: identity.to_owned(), pace }
    }

    async fn until(standing: &mut watch::Receiver<Standing>, wanted: impl Fn(&Standing) -> bool) -> Standing {
        let found = timeout(Duration::from_secs(10), standing.wait_for(|standing| wanted(standing))).await;
        found.expect("in time").expect("the campaign still runs").clone()
    }

    #[test]
    fn a_leader_has_time_for_a_second_call_and_stops_before_others_may_start() {
        let pace = Pace::default();
        assert!(pace.give_up >= pace.call + pace.retry + Duration::from_secs(1));
        assert!(pace.duration >= pace.give_up + pace.call, "a call that is under way ends before others start");
    }

    #[test]
    fn two_processes_under_one_replica_name_are_two_candidates() {
        let candidate = || Candidacy::new("amend-system", "amend", "amend-0").identity;
        assert_ne!(candidate(), candidate());
        assert!(candidate().starts_with("amend-0_"));
    }

    #[tokio::test]
    async fn only_one_of_two_leads_and_the_other_follows_at_once_when_it_is_released() {
        let server = LeaseServer::default();
        let stop = CancellationToken::new();
        let (mut first, _) = campaign(server.client().await, candidacy("first"), stop.clone());
        until(&mut first, Standing::leads).await;
        let (mut second, _) = campaign(server.client().await, candidacy("second"), CancellationToken::new());
        assert_eq!(*second.borrow(), Standing::Following);
        stop.cancel();
        assert_eq!(until(&mut first, Standing::is_final).await, Standing::Released);
        until(&mut second, Standing::leads).await;
        assert_eq!(server.holder(), "second");
    }

    #[tokio::test]
    async fn a_leader_cut_off_from_the_api_server_stops_before_its_lease_runs_out() {
        let server = LeaseServer::default();
        let (mut standing, _) = campaign(server.client().await, candidacy("first"), CancellationToken::new());
        until(&mut standing, Standing::leads).await;
        let cut = Instant::now();
        *server.silent.lock().unwrap() = true;
        let end = until(&mut standing, Standing::is_final).await;
        assert!(matches!(&end, Standing::Lost { why } if why.contains("could not be renewed")), "{end:?}");
        assert!(cut.elapsed() < Duration::from_millis(1000), "took {:?}", cut.elapsed());
    }

    #[tokio::test]
    async fn a_dead_leader_is_followed_only_after_its_lease_was_seen_unchanged_for_its_duration() {
        let server = LeaseServer::default();
        let dead = Lease {
            spec: Some(LeaseSpec {
                holder_identity: Some("dead".to_owned()),
                lease_duration_seconds: Some(1),
                renew_time: Some(MicroTime(Timestamp::UNIX_EPOCH)), // its clock was wrong: of no interest
                lease_transitions: Some(6),
                ..LeaseSpec::default()
            }),
            ..Lease::default()
        };
        *server.lease.lock().unwrap() = Some(dead);
        let started = Instant::now();
        let (mut standing, _) = campaign(server.client().await, candidacy("second"), CancellationToken::new());
        until(&mut standing, Standing::leads).await;
        assert!(started.elapsed() >= Duration::from_millis(1000), "took only {:?}", started.elapsed());
        let lease = server.lease.lock().unwrap().clone().unwrap();
        assert_eq!(lease.spec.unwrap().lease_transitions, Some(7));
    }

    #[tokio::test]
    async fn a_leader_that_finds_another_holder_has_lost() {
        let server = LeaseServer::default();
        let (mut standing, _) = campaign(server.client().await, candidacy("first"), CancellationToken::new());
        until(&mut standing, Standing::leads).await;
        {
            let mut lease = server.lease.lock().unwrap();
            let lease = lease.as_mut().unwrap();
            lease.metadata.resource_version = Some("900".to_owned());
            lease.spec.as_mut().unwrap().holder_identity = Some("usurper".to_owned());
        }
        let end = until(&mut standing, Standing::is_final).await;
        assert_eq!(end, Standing::Lost { why: "another process took the lease".to_owned() });
        assert_eq!(server.holder(), "usurper");
    }
}

//! One pull request per proposal, whatever is lost on the way and whoever else writes.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use amend_gitops::body::{GateRow, GateVerdict, Marker, Named, ProposalFacts};
use amend_gitops::forge::{
    BranchRules, CommitStatus, FailedRun, Forge, ForgeError, NewPullRequest, Observation, PullRequest, PullRequestEdit,
    PullRequestState, Reply, StatusVerdict,
};
use amend_gitops::proposal::{Cap, Identity, MUTED, Opened, Proposal, ProposalError, Proposals, Standing};
use amend_gitops::repo::{CommitRequest, ContentChange, Trailers};
use amend_gitops::{CommitId, Repo, RepoPath};
use futures::FutureExt;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use support::Server;

const NOW: &str = "2026-11-21T12:00:00Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

/// A forge in memory, with the faults that a real one has.
#[derive(Debug, Default)]
struct Fake {
    pulls: Mutex<Vec<PullRequest>>,
    comments: Mutex<BTreeMap<String, String>>,
    statuses: Mutex<BTreeMap<String, CommitStatus>>,
    /// The next `open` works, and its answer is lost.
    lose_reply: Mutex<bool>,
    /// The next `find` shows nothing yet.
    lag: Mutex<bool>,
    clock: Mutex<Option<Timestamp>>,
    git: Mutex<Option<std::path::PathBuf>>,
}

impl Fake {
    fn now(&self) -> Timestamp {
        self.clock.lock().unwrap().unwrap_or_else(now)
    }

    fn edit(&self, number: u64, change: impl FnOnce(&mut PullRequest)) -> PullRequest {
        let mut pulls = self.pulls.lock().unwrap();
        let pull = pulls.iter_mut().find(|pull| pull.number == number).unwrap();
        change(pull);
        pull.clone()
    }

    fn close_as_a_person(&self, number: u64) {
        let at = Some(self.now());
        self.edit(number, |pull| pull.state = PullRequestState::Closed { at });
    }

    /// The head that the branch has on the server now.
    fn head(&self, branch: &str) -> CommitId {
        let git = git2::Repository::open_bare(self.git.lock().unwrap().as_ref().unwrap()).unwrap();
        CommitId::parse(&git.refname_to_id(&format!("refs/heads/{branch}")).unwrap().to_string()).unwrap()
    }

    fn count(&self) -> usize {
        self.pulls.lock().unwrap().len()
    }
}

impl Forge for Fake {
    fn name(&self) -> &str {
        "fake/shop/fleet"
    }

    fn find(&self, since: Timestamp) -> Reply<'_, Vec<PullRequest>> {
        let hidden = std::mem::take(&mut *self.lag.lock().unwrap());
        let pulls = self.pulls.lock().unwrap().clone();
        let shown = pulls.into_iter().filter(|pull| pull.state == PullRequestState::Open || pull.updated >= since);
        let shown: Vec<PullRequest> = if hidden { Vec::new() } else { shown.collect() };
        async move { Ok(shown) }.boxed()
    }

    fn may_propose(&self) -> Reply<'_, ()> {
        async move { Ok(()) }.boxed()
    }

    fn open(&self, new: NewPullRequest) -> Reply<'_, PullRequest> {
        let mut pulls = self.pulls.lock().unwrap();
        let forge = || self.name().to_owned();
        if pulls.iter().any(|pull| pull.branch == new.branch && pull.state == PullRequestState::Open) {
            let error = ForgeError::Conflict { forge: forge(), doing: "open".into(), why: "there is one".into() };
            return async move { Err(error) }.boxed();
        }
        let head = self.head(&new.branch);
        let at = self.now();
        let pull = PullRequest {
            number: pulls.len() as u64 + 1,
            url: "https://fake.example/1".into(),
            title: new.title,
            body: new.body,
            draft: new.draft,
            state: PullRequestState::Open,
            branch: new.branch,
            base: new.base,
            head,
            labels: new.labels,
            author: "amend".into(),
            created: at,
            updated: at,
        };
        pulls.push(pull.clone());
        let lost = std::mem::take(&mut *self.lose_reply.lock().unwrap());
        let lost = lost.then(|| ForgeError::TimedOut { forge: forge(), after: Duration::from_secs(15) });
        async move { lost.map_or(Ok(pull), Err) }.boxed()
    }

    fn update(&self, number: u64, edit: PullRequestEdit) -> Reply<'_, PullRequest> {
        let pull = self.edit(number, |pull| {
            pull.title = edit.title.unwrap_or(pull.title.clone());
            pull.body = edit.body.unwrap_or(pull.body.clone());
            pull.draft = edit.draft.unwrap_or(pull.draft);
            pull.labels = edit.labels.unwrap_or(pull.labels.clone());
        });
        async move { Ok(pull) }.boxed()
    }

    fn observe(&self, number: u64) -> Reply<'_, Observation> {
        let pull_request = self.edit(number, |_| {});
        async move { Ok(Observation { pull_request, mergeable: true, reviews: Vec::new() }) }.boxed()
    }

    fn merge(&self, number: u64, head: CommitId, _message: String) -> Reply<'_, ()> {
        let at = Some(self.now());
        self.edit(number, |pull| {
            assert_eq!(pull.head, head);
            assert_eq!(pull.state, PullRequestState::Open);
            pull.state = PullRequestState::Merged { commit: Some(head), by: Some("amend".into()), at };
        });
        async { Ok(()) }.boxed()
    }

    fn close(&self, number: u64) -> Reply<'_, PullRequest> {
        self.close_as_a_person(number);
        let pull = self.edit(number, |_| {});
        async move { Ok(pull) }.boxed()
    }

    fn comment(&self, number: u64, id: String, text: String) -> Reply<'_, ()> {
        self.comments.lock().unwrap().insert(format!("{number}/{id}"), text);
        async { Ok(()) }.boxed()
    }

    fn report(&self, _commit: CommitId, status: CommitStatus) -> Reply<'_, ()> {
        self.statuses.lock().unwrap().insert(status.context.clone(), status);
        async { Ok(()) }.boxed()
    }

    fn reported(&self, _commit: CommitId) -> Reply<'_, BTreeMap<String, CommitStatus>> {
        let all = self.statuses.lock().unwrap().clone();
        async move { Ok(all) }.boxed()
    }

    fn rules(&self, _branch: String) -> Reply<'_, BranchRules> {
        async { Ok(BranchRules { may_merge: true, ..BranchRules::default() }) }.boxed()
    }

    fn job_log(&self, job: String) -> Reply<'_, String> {
        let error = ForgeError::NotFound { forge: self.name().to_owned(), doing: format!("read the log of job {job}") };
        async move { Err(error) }.boxed()
    }

    fn failed_runs(&self) -> Reply<'_, Vec<FailedRun>> {
        async { Ok(Vec::new()) }.boxed()
    }
}

struct World {
    server: Server,
    forge: Arc<Fake>,
    proposals: Proposals,
    repo: Repo,
}

impl World {
    async fn new() -> Self {
        let server = Server::with(&[("checkout.yaml", "memory: 256Mi\n")]).await;
        let repo = server.repo().await;
        repo.fetch().await.unwrap();
        let forge = Arc::new(Fake::default());
        *forge.git.lock().unwrap() = Some(server.folder.path().join("shop/fleet.git"));
        let proposals = Proposals::new(forge.clone(), repo.clone());
        Self { server, forge, proposals, repo }
    }

    async fn proposal(&self, key: &str, fingerprint: &str) -> Proposal {
        let identity = Identity {
            key: serde_json::from_value(json!(key)).unwrap(),
            fingerprint: serde_json::from_value(json!(fingerprint)).unwrap(),
            plan: serde_json::from_value(json!("beef")).unwrap(),
        };
        let commit = self.repo.commit(self.request(&format!("memory: {key}\n")).await).await.unwrap();
        let facts = facts(&identity);
        Proposal {
            identity,
            commit,
            facts,
            draft: true,
            labels: BTreeSet::new(),
            cap: Cap { per_day: 1, exempt: false },
        }
    }

    async fn request(&self, after: &str) -> CommitRequest {
        CommitRequest {
            parent: self.repo.fetch().await.unwrap(),
            changes: vec![ContentChange {
                path: RepoPath::parse("checkout.yaml").unwrap(),
                before: Some("memory: 256Mi\n".into()),
                after: Some(after.into()),
            }],
            subject: "fix(checkout): raise the memory limit".into(),
            body: String::new(),
            trailers: Trailers { incident: "i".into(), plan: "beef".into(), record: "1".into() },
            intended: now(),
        }
    }

    async fn opened(&self, proposal: &Proposal) -> PullRequest {
        self.there(proposal).await.0
    }

    /// The pull request, and whether it was there already.
    async fn there(&self, proposal: &Proposal) -> (PullRequest, bool) {
        match self.proposals.open(proposal, now()).await.unwrap() {
            Opened::There { pull, adopted } => (pull, adopted),
            Opened::Not(standing) => panic!("{standing:?}"),
        }
    }
}

fn facts(identity: &Identity) -> ProposalFacts {
    ProposalFacts {
        marker: Marker {
            key: identity.key.to_string(),
            fingerprint: identity.fingerprint.to_string(),
            plan: identity.plan.to_string(),
            withdrawn: false,
        },
        title: "raise the memory limit".into(),
        incident: Named { name: "shop/checkout-1".into(), url: None },
        policy: "shop/raise".into(),
        story: "checkout was OOM-killed".into(),
        changes: vec![],
        reason: String::new(),
        graph: vec![],
        confidence: String::new(),
        alternatives: vec![],
        evidence: vec![],
        diff: String::new(),
        gates: vec![],
        on_merge: "restarts 2 pods".into(),
        undo: "revert".into(),
        record: "1".into(),
    }
}

#[tokio::test]
async fn a_crash_anywhere_around_push_and_open_leaves_one_pull_request() {
    let world = World::new().await;
    let proposal = world.proposal("aa", "f1").await;
    world.repo.push_new("amend/aa", &proposal.commit).await.unwrap();

    *world.forge.lose_reply.lock().unwrap() = true;
    let lost = world.proposals.open(&proposal, now()).await.unwrap_err();
    assert!(lost.in_doubt() && lost.retry(), "{lost:?}");

    *world.forge.lag.lock().unwrap() = true;
    let adopted = world.opened(&proposal).await;
    let again = world.opened(&proposal).await;
    assert_eq!((adopted.number, again.number, world.forge.count()), (1, 1, 1));
    assert_eq!(again.head, proposal.commit);
}

#[tokio::test]
async fn whether_a_pull_request_was_there_already_is_told_as_it_was() {
    let world = World::new().await;
    let first = world.proposal("aa", "f1").await;
    let (opened, again) = (world.there(&first).await, world.there(&first).await);
    assert_eq!((opened.1, again.1), (false, true));
    assert_eq!(opened.0.number, again.0.number);

    let world = World::new().await;
    let second = world.proposal("bb", "f2").await;
    *world.forge.lose_reply.lock().unwrap() = true;
    world.proposals.open(&second, now()).await.unwrap_err();
    *world.forge.lag.lock().unwrap() = true;
    assert!(world.there(&second).await.1, "the forge has it by the attempt whose reply was lost");
}

#[tokio::test]
async fn opening_again_brings_the_words_up_to_date() {
    let world = World::new().await;
    let mut proposal = world.proposal("aa", "f1").await;
    assert!(world.opened(&proposal).await.draft);
    proposal.facts.story = "more is known now".into();
    proposal.draft = false;
    proposal.labels = BTreeSet::from(["amend/severity-critical".into(), "p1".into()]);
    let pull = world.opened(&proposal).await;
    assert!(!pull.draft && pull.body.contains("more is known now"));
    assert_eq!(pull.labels, BTreeSet::from(["amend".into(), "amend/severity-critical".into()]));
}

#[tokio::test]
async fn the_same_proposal_by_another_execution_finds_the_open_one() {
    let world = World::new().await;
    let first = world.opened(&world.proposal("aa", "f1").await).await;
    let later = world.proposal("bb", "f1").await;
    match world.proposals.open(&later, now()).await.unwrap() {
        Opened::Not(Standing::Open(pull)) => assert_eq!(pull.number, first.number),
        other => panic!("{other:?}"),
    }
    assert_eq!(world.repo.branch_head("amend/bb").await.unwrap(), None);
}

#[tokio::test]
async fn a_newer_value_is_put_on_top_of_the_open_one() {
    let world = World::new().await;
    let pull = world.opened(&world.proposal("aa", "f1").await).await;
    let mut request = world.request("memory: 512Mi\n").await;
    request.parent = pull.head.clone();
    request.changes[0].before = Some("memory: aa\n".into());
    let newer = world.repo.commit(request).await.unwrap();
    world.proposals.update_change(&pull, &newer).await.unwrap();
    assert_eq!(world.repo.branch_head("amend/aa").await.unwrap(), Some(newer.clone()));

    let pull = world.forge.edit(pull.number, |pull| pull.head = newer.clone());
    let later = Proposal { commit: newer.clone(), ..world.proposal("bb", "f1").await };
    world.proposals.refresh(&pull, &later).await.unwrap();
    world.proposals.merge(pull.number, &newer).await.unwrap();
    let standing = world.proposals.standing(&later.identity, later.cap, now()).await.unwrap();
    assert!(matches!(standing, Standing::Merged(_)), "{standing:?}");
}

#[tokio::test]
async fn a_base_that_moved_in_the_way_is_answered_without_a_forced_push() {
    let world = World::new().await;
    let pull = world.opened(&world.proposal("aa", "f1").await).await;
    let base = world.server.commit("main", "somebody was faster", &[("checkout.yaml", "memory: 300Mi\n")]);
    let mut request = world.request("memory: 450Mi\n").await;
    assert_eq!(request.parent, base);
    request.changes[0].before = Some("memory: 300Mi\n".into());
    let anew = world.repo.commit_onto(&pull.head, request).await.unwrap();
    world.proposals.update_change(&pull, &anew).await.unwrap();
    assert_eq!(world.repo.branch_head("amend/aa").await.unwrap(), Some(anew.clone()));

    let git = world.server.git();
    let commit = |id: &CommitId| git.find_commit(git2::Oid::from_str(id.as_str()).unwrap()).unwrap();
    assert!(!git.merge_commits(&commit(&base), &commit(&anew), None).unwrap().has_conflicts());
    let diff = world.repo.diff(&base, &anew).await.unwrap();
    assert!(diff[0].text.contains("-memory: 300Mi\n+memory: 450Mi\n"), "{diff:?}");
}

#[tokio::test]
async fn a_rejected_proposal_is_muted_for_seven_days_and_not_longer() {
    let world = World::new().await;
    let proposal = world.proposal("aa", "f1").await;
    let pull = world.opened(&proposal).await;
    world.forge.close_as_a_person(pull.number);
    let standing = world.proposals.standing(&proposal.identity, proposal.cap, now()).await.unwrap();
    assert!(matches!(standing, Standing::Rejected(_)), "{standing:?}");

    let again = world.proposal("bb", "f1").await;
    match world.proposals.open(&again, now()).await.unwrap() {
        Opened::Not(Standing::Muted { until, .. }) => assert_eq!(until, now() + MUTED),
        other => panic!("{other:?}"),
    }
    let later = now() + MUTED + SignedDuration::from_secs(1);
    let standing = world.proposals.standing(&again.identity, again.cap, later).await.unwrap();
    assert_eq!(standing, Standing::New);
}

#[tokio::test]
async fn a_withdrawn_proposal_is_not_a_rejected_one() {
    let world = World::new().await;
    let proposal = world.proposal("aa", "f1").await;
    let pull = world.opened(&proposal).await;
    world.proposals.withdraw(&pull, "the cause has been gone for 30 min").await.unwrap();
    let standing = world.proposals.standing(&proposal.identity, proposal.cap, now()).await.unwrap();
    assert!(matches!(standing, Standing::Withdrawn(_)), "{standing:?}");
    assert_eq!(world.forge.comments.lock().unwrap()["1/withdrawn"], "the cause has been gone for 30 min");
    assert_eq!(world.repo.branch_head("amend/aa").await.unwrap(), None);

    let again = world.proposal("bb", "f1").await;
    let cap = Cap { per_day: 2, exempt: false };
    assert_eq!(world.proposals.standing(&again.identity, cap, now()).await.unwrap(), Standing::New);
}

#[tokio::test]
async fn a_repository_gets_one_new_pull_request_a_day_unless_it_is_critical() {
    let world = World::new().await;
    world.opened(&world.proposal("aa", "f1").await).await;
    let mut other = world.proposal("bb", "f2").await;
    match world.proposals.open(&other, now()).await.unwrap() {
        Opened::Not(Standing::Capped { until, sentence }) => {
            assert_eq!(until, now() + SignedDuration::from_hours(24));
            assert!(sentence.contains("had 1 new pull requests") && sentence.contains("cap is 1"), "{sentence}");
        }
        found => panic!("{found:?}"),
    }
    other.cap.exempt = true;
    world.opened(&other).await;
    assert_eq!(world.forge.count(), 2);
}

#[tokio::test]
async fn what_was_withdrawn_leaves_room_for_what_stands_in_its_place_but_not_all_day() {
    let world = World::new().await;
    let standing = async |key: &str, at| {
        let proposal = world.proposal(key, &format!("f-{key}")).await;
        world.proposals.standing(&proposal.identity, proposal.cap, at).await.unwrap()
    };
    let withdrawn = async |key: &str| {
        let pull = world.opened(&world.proposal(key, &format!("f-{key}")).await).await;
        world.proposals.withdraw(&pull, "the history was rewritten").await.unwrap();
    };
    withdrawn("aa").await;
    assert_eq!(standing("bb", now()).await, Standing::New);

    withdrawn("bb").await;
    match standing("cc", now()).await {
        Standing::Capped { until, sentence } => {
            assert_eq!(until, now() + SignedDuration::from_hours(24));
            assert!(sentence.contains("2 new pull requests (2 of them withdrawn)"), "{sentence}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(standing("cc", now() + SignedDuration::from_hours(24)).await, Standing::New);
}

#[tokio::test]
async fn a_branch_that_somebody_else_committed_to_is_left_alone() {
    let world = World::new().await;
    let proposal = world.proposal("aa", "f1").await;
    let pull = world.opened(&proposal).await;
    let foreign = world.server.commit("amend/aa", "a person helps", &[("checkout.yaml", "memory: 1Gi\n")]);
    let pull = world.forge.edit(pull.number, |pull| pull.head = foreign.clone());

    let refused = world.proposals.open(&proposal, now()).await.unwrap_err();
    let ProposalError::Foreign { commits, .. } = &refused else { panic!("{refused:?}") };
    assert_eq!(*commits, [foreign.short()]);
    let refused = world.proposals.update_change(&pull, &proposal.commit).await.unwrap_err();
    assert!(matches!(refused, ProposalError::Foreign { .. }), "{refused:?}");
    let refused = world.proposals.merge(pull.number, &proposal.commit).await.unwrap_err();
    assert!(matches!(refused, ProposalError::HeadMoved { .. }), "{refused:?}");
    assert_eq!(world.repo.branch_head("amend/aa").await.unwrap(), Some(foreign));
}

#[tokio::test]
async fn a_merge_names_the_reviewed_commit_and_may_be_repeated() {
    let world = World::new().await;
    let proposal = world.proposal("aa", "f1").await;
    let pull = world.opened(&proposal).await;
    for _ in 0..2 {
        let merged = world.proposals.merge(pull.number, &proposal.commit).await.unwrap();
        assert!(matches!(merged.state, PullRequestState::Merged { .. }));
    }
    let standing = world.proposals.standing(&proposal.identity, proposal.cap, now()).await.unwrap();
    assert!(matches!(standing, Standing::Merged(_)), "{standing:?}");
}

#[tokio::test]
async fn gates_are_shown_as_statuses_and_unknown_is_pending() {
    let world = World::new().await;
    let proposal = world.proposal("aa", "f1").await;
    let gate = |name: &str, verdict| GateRow { name: name.into(), verdict, sentence: "a sentence".into() };
    let gates = [
        gate("permission", GateVerdict::Pass),
        gate("blast radius", GateVerdict::Unknown),
        gate("fits", GateVerdict::Fail),
    ];
    world.proposals.show_gates(&proposal.commit, &gates, None).await.unwrap();
    let shown = world.forge.reported(proposal.commit).await.unwrap();
    let verdicts: Vec<(&str, StatusVerdict)> =
        shown.iter().map(|(name, status)| (name.as_str(), status.verdict)).collect();
    assert_eq!(
        verdicts,
        [
            ("amend/blast-radius", StatusVerdict::Pending),
            ("amend/fits", StatusVerdict::Failure),
            ("amend/permission", StatusVerdict::Success),
        ]
    );
}

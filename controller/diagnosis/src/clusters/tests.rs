use super::*;
use crate::entity::Entity;
use crate::evidence::{Series, Span, SpanKind};
use crate::signal::{Severity, Signal, SignalSource};

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn series(pairs: &[(&str, &str)]) -> Series {
    Series { labels: labels(pairs), samples: vec![(1.0, 1.0)], asked: String::new() }
}

fn span(attributes: &[(&str, &str)]) -> Span {
    Span {
        trace_id: "t".into(),
        span_id: "s".into(),
        parent_id: None,
        service: "cart".into(),
        pod: None,
        operation: "GET".into(),
        kind: SpanKind::Server,
        start_ns: 1,
        duration_ns: 1,
        error: false,
        attributes: labels(attributes),
    }
}

pub(crate) fn observed(series: Vec<Series>, spans: Vec<Span>) -> Observations {
    Observations {
        at: jiff::Timestamp::UNIX_EPOCH,
        began: None,
        normal: None,
        fault: None,
        symptoms: Vec::new(),
        candidates: None,
        topology: Answer::unknown("nobody was asked"),
        series: Answer::Known(series),
        spans: Answer::Known(spans),
        exemplars: Answer::unknown("nobody was asked"),
        logs: Answer::unknown("nobody was asked"),
        changes: Answer::unknown("nobody was asked"),
        objects: Answer::unknown("nobody was asked"),
        events: Answer::unknown("nobody was asked"),
        asked: Vec::new(),
    }
}

fn alert(pairs: &[(&str, &str)]) -> Signal {
    Signal {
        key: "k".into(),
        source: SignalSource::Alert,
        name: "HighErrors".into(),
        entity: Entity::new(EntityKind::Deployment, "shop", "cart"),
        severity: Severity::Critical,
        started_at: jiff::Timestamp::UNIX_EPOCH,
        ended_at: None,
        summary: String::new(),
        labels: labels(pairs),
        count: 1,
    }
}

fn memory(cluster: &str, pod: &str) -> Series {
    series(&[
        ("__name__", "container_memory_working_set_bytes"),
        ("cluster", cluster),
        ("namespace", "shop"),
        ("pod", pod),
    ])
}

fn kept(observations: &Observations) -> (usize, usize, Foreign) {
    let (ours, foreign) = own(observations);
    (ours.series.known().unwrap().len(), ours.spans.known().unwrap().len(), foreign)
}

#[test]
fn one_cluster_is_one_whatever_form_its_name_has() {
    let aws = ClusterName::parsed("arn:aws:eks:eu-west-1:1234:cluster/Prod");
    assert_eq!(
        aws,
        ClusterName::told(&labels(&[
            ("k8s.cluster.name", "prod"),
            ("cloud.provider", "aws"),
            ("cloud.region", "eu-west-1"),
            ("cloud.account.id", "1234")
        ]))
        .unwrap()
    );
    let gke = ClusterName::parsed("gke_acme_europe-west1-b_prod");
    for other in ["//container.googleapis.com/projects/acme/locations/europe-west1/clusters/prod", "prod"] {
        assert!(gke.may_be(&ClusterName::parsed(other)), "{other}");
    }
    let aks = "/subscriptions/S/resourceGroups/rg/providers/Microsoft.ContainerService/managedClusters/Prod";
    assert!(ClusterName::parsed(aks).may_be(&ClusterName::parsed("prod")));
    assert!(!aws.may_be(&gke) && !aws.may_be(&ClusterName::parsed("arn:aws:eks:us-east-1:1234:cluster/prod")));
    assert_eq!(ClusterName::told(&labels(&[("cloud.resource_id", "arn:aws:ec2:eu-west-1:1:instance/i-1")])), None);
}

#[test]
fn what_another_cluster_sent_is_counted_and_left_out() {
    let spans = vec![
        span(&[("k8s.cluster.name", "prod"), ("cloud.region", "eu-west-1")]),
        span(&[("k8s.cluster.name", "prod"), ("cloud.region", "us-east-1")]),
        span(&[]),
    ];
    let mut seen = observed(vec![memory("prod", "cart-0"), memory("staging", "cart-0")], spans);
    seen.symptoms = vec![alert(&[("cluster", "arn:aws:eks:eu-west-1:1234:cluster/prod")])];
    let (series, spans, foreign) = kept(&seen);
    assert_eq!((series, spans), (1, 2), "an unnamed cluster is taken for ours");
    let expected = [("prod (us-east-1)".to_owned(), 1), ("staging".to_owned(), 1)];
    assert_eq!(foreign, Foreign { left_out: expected.into(), assumed: None });
    let told = foreign.told().unwrap();
    assert_eq!(told, "series and spans that these clusters sent were left out: prod (us-east-1) (1), staging (1)");
    let found = crate::diagnose::diagnose(&seen);
    assert_eq!(found.alignment.foreign, foreign, "an answer says so");
}

#[test]
fn a_store_that_calls_our_cluster_otherwise_is_known_by_our_pods() {
    let pod = "cart-5d8f7c9b6d-x2x4q";
    let mut seen = observed(
        vec![
            memory("prod", pod),
            memory("eks-main", pod),
            memory("eks-other", "cart-66b5c9d7f8-aaaaa"),
            memory("eks-main", "db-0"),
        ],
        Vec::new(),
    );
    seen.symptoms = vec![alert(&[("cluster", "prod")])];
    seen.objects = Answer::Known(vec![serde_json::json!({
        "kind": "Pod",
        "metadata": {"namespace": "shop", "name": pod, "labels": {"pod-template-hash": "5d8f7c9b6d"},
            "ownerReferences": [{"kind": "ReplicaSet", "name": "cart-5d8f7c9b6d", "controller": true}]},
    })]);
    let (series, _, foreign) = kept(&seen);
    assert_eq!((series, foreign.left_out), (3, [("eks-other".to_owned(), 1)].into()));
}

#[test]
fn where_nothing_says_which_cluster_is_ours_all_of_it_is_and_that_is_said() {
    let seen = observed(vec![memory("a", "cart-0"), memory("b", "cart-0")], Vec::new());
    let (series, _, foreign) = kept(&seen);
    assert_eq!(series, 2);
    assert!(foreign.assumed.is_some_and(|why| why.contains("clusters a, b")), "said");
    let one = observed(vec![memory("a", "cart-0")], Vec::new());
    assert!(kept(&one).2.is_empty(), "one cluster is no question");
}

#[test]
fn a_group_of_databases_is_no_cluster() {
    let redis = series(&[("__name__", "redis_up"), ("cluster", "cache"), ("namespace", "shop"), ("pod", "redis-0")]);
    let mut seen = observed(vec![redis, memory("prod", "cart-0")], Vec::new());
    seen.symptoms = vec![alert(&[("cluster", "prod")])];
    assert_eq!(kept(&seen).0, 2);
}

use amend_controller::sketch::Sketch;

use super::*;

fn at(minute: i64) -> Timestamp {
    Timestamp::from_second(1_772_442_000 + 60 * minute).unwrap()
}

fn judged(minute: i64, verdict: Verdict) -> Judged {
    Judged {
        opened_at: at(minute),
        ended_at: Some(at(minute + 75)),
        namespace: "shop".to_owned(),
        entity: "shop/Deployment/checkout".to_owned(),
        alerts: 3,
        names: ["ContainerOOMKilled", "HighErrorRatio"].map(str::to_owned).to_vec(),
        verdict,
        silenced: None,
    }
}

fn report() -> Report {
    let change = Sketch { policy: "raise-memory".into(), summary: "raise the memory limit".into(), files: 1, lines: 1 };
    let explained = Explained {
        cause: "container.oom-killed".to_owned(),
        entity: "shop/Deployment/checkout[app]".to_owned(),
        sentence: String::new(),
        confidence: 0.97,
        change: Some(change),
        from_library: true,
        no_change: None,
    };
    let why = "nothing points at\n\u{1b}[31ma cause".to_owned();
    Report {
        window: Window { from: at(-20160), to: at(0) },
        heard: Counted { all: 8, grouped: 6, not_aligned: 1, dropped: BTreeMap::from([("heartbeat", 1)]) },
        problems: vec![
            judged(-100, Verdict::Explained(Box::new(explained))),
            judged(-900, Verdict::Silent { reason: Silence::NothingUnusual, why }),
        ],
        not_aligned: vec![NotAligned {
            alert: "Slow".to_owned(),
            count: 1,
            labels: BTreeMap::new(),
            mend: "add labels".to_owned(),
        }],
        unread: vec![Unread {
            source: "prometheus".to_owned(),
            window: Window { from: at(-20160), to: at(-19800) },
            why: "no answer".to_owned(),
        }],
        without_calls: BTreeMap::from([("shop".to_owned(), "nobody traces".to_owned())]),
        stores: BTreeMap::new(),
        cost: Cost { queries: 120, bytes: 3 << 20, seconds: 4.2 },
        budget: 2000,
    }
}

#[test]
fn the_first_line_counts_and_every_part_has_its_reason() {
    let told = report().told();
    for line in [
        "8 alerts, 2 problems, 1 explained, 1 silent, 1 of the explained a one-line change",
        "silent    1  no entity showed anything unusual",
        "container.oom-killed on shop/Deployment/checkout[app], 97 % sure",
        "raise the memory limit: 1 line (policy raise-memory, a ready one that is not applied here)",
        "Slow (1 times): add labels",
        "left out: 1 alert: heartbeat",
        "no answer",
        "grouped without call edges: namespace shop: nobody traces",
        "120 of at most 2000 queries, one at a time; 3.0 MiB read; 4.2 s",
    ] {
        assert!(told.contains(line), "{line} is not in:\n{told}");
    }
    assert!(!told.contains('\u{1b}'), "{told}");
}

#[test]
fn the_object_says_the_same() {
    let object = report().object();
    assert_eq!(object["summary"]["explained"], 1);
    assert_eq!(object["summary"]["oneLine"], 1);
    assert_eq!(object["problems"][0]["verdict"]["explained"]["cause"], "container.oom-killed");
    assert_eq!(object["problems"][1]["verdict"]["silent"]["reason"], "nothingUnusual");
    assert_eq!(object["alerts"]["notAligned"], 1);
    assert_eq!(object["notRead"][0]["why"], "no answer");
}

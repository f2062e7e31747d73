//! The PromQL shapes of our builders, and what Prometheus answers to them.
#![allow(clippy::unwrap_used, clippy::panic)]

use amend_sandbox::telemetry::promql::{Answer, PromqlError, evaluate, parse};
use amend_sandbox::telemetry::tsdb::Tsdb;

type Scraped<'a> = (&'a str, Vec<(&'a str, String)>, f64);
type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [f64]);

/// One sample every 10 s from second 0 on.
fn store(rows: &[Row<'_>]) -> Tsdb {
    let mut tsdb = Tsdb::default();
    let length = rows.iter().map(|row| row.2.len()).max().unwrap_or(0);
    for at in 0..length {
        let scraped: Vec<Scraped<'_>> = rows
            .iter()
            .filter_map(|(name, labels, values)| {
                let labels = labels.iter().map(|(label, value)| (*label, (*value).to_owned())).collect();
                Some((*name, labels, *values.get(at)?))
            })
            .collect();
        let samples = scraped.iter().map(|(name, labels, value)| (*name, labels.as_slice(), *value));
        tsdb.scrape("test", i64::try_from(at).unwrap() * 10_000, samples);
    }
    tsdb
}

fn shop() -> Tsdb {
    store(&[
        ("requests_total", &[("code", "200"), ("service", "cart")], &[0.0, 100.0, 200.0, 300.0, 400.0, 500.0, 600.0]),
        ("requests_total", &[("code", "500"), ("service", "cart")], &[0.0, 0.0, 0.0, 20.0, 40.0, 60.0, 80.0]),
        ("requests_total", &[("code", "200"), ("service", "ads")], &[0.0, 10.0, 20.0, 5.0, 15.0, 25.0, 35.0]),
        ("memory", &[("pod", "a")], &[10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0]),
        ("limit", &[("pod", "a")], &[100.0; 7]),
        ("gone", &[("pod", "a")], &[1.0, 1.0, 1.0]),
        ("time_bucket", &[("le", "0.1")], &[0.0, 50.0]),
        ("time_bucket", &[("le", "1")], &[0.0, 90.0]),
        ("time_bucket", &[("le", "+Inf")], &[0.0, 100.0]),
    ])
}

fn ask(query: &str, seconds: i64) -> Result<Vec<(String, f64)>, PromqlError> {
    Ok(match evaluate(&parse(query)?, &shop(), seconds * 1000)? {
        Answer::Scalar(value) => vec![("scalar".into(), value)],
        Answer::Vector(vector) => vector
            .into_iter()
            .map(|(labels, value)| {
                (labels.into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(","), value)
            })
            .collect(),
    })
}

#[test]
fn every_shape_gives_what_prometheus_gives() {
    let table: &[(&str, &[(&str, f64)])] = &[
        ("1 + 2 * 3", &[("scalar", 7.0)]),
        ("memory", &[("__name__=memory,pod=a", 70.0)]),
        ("memory{pod=~\"a|b\",pod!=\"b\"}", &[("__name__=memory,pod=a", 70.0)]),
        ("memory{pod!~\"a.*\"}", &[]),
        ("memory / limit", &[("pod=a", 0.7)]),
        ("memory / limit > 0.5", &[("pod=a", 0.7)]),
        ("memory / limit > 0.8", &[]),
        ("(memory - 20) * 2", &[("pod=a", 100.0)]),
        ("memory > 50", &[("__name__=memory,pod=a", 70.0)]),
        ("max_over_time(memory[30s])", &[("pod=a", 70.0)]),
        ("min_over_time(memory[30s])", &[("pod=a", 50.0)]),
        ("avg_over_time(memory[30s])", &[("pod=a", 60.0)]),
        ("last_over_time(memory[30s])", &[("__name__=memory,pod=a", 70.0)]),
        ("changes(memory[30s])", &[("pod=a", 2.0)]),
        ("deriv(memory[1m])", &[("pod=a", 1.0)]),
        // 40 s sampled of 60, half an interval of 10 s before the first sample would be outside: extrapolated to the window.
        ("rate(requests_total{service=\"cart\",code=\"200\"}[1m])", &[("code=200,service=cart", 10.0)]),
        ("increase(requests_total{service=\"cart\",code=\"200\"}[1m])", &[("code=200,service=cart", 600.0)]),
        ("sum by (service) (rate(requests_total{service=\"cart\"}[30s]))", &[("service=cart", 12.0)]),
        ("sum(requests_total{service=\"cart\"}) by (service)", &[("service=cart", 680.0)]),
        ("count by (service) (requests_total)", &[("service=ads", 1.0), ("service=cart", 2.0)]),
        ("max(requests_total)", &[("", 600.0)]),
        ("min(requests_total)", &[("", 35.0)]),
        ("avg by (service) (requests_total{service=\"cart\"})", &[("service=cart", 340.0)]),
        (
            "sum by (service) (rate(requests_total{code=~\"5..\"}[30s])) / sum by (service) (rate(requests_total[30s])) > 0.1",
            &[("service=cart", 1.0 / 6.0)],
        ),
        ("sum(memory) / sum(limit)", &[("", 0.7)]),
    ];
    for (query, expected) in table {
        let found = ask(query, 60).unwrap_or_else(|error| panic!("{query}: {error}"));
        assert_eq!(found.len(), expected.len(), "{query}: {found:?}");
        for ((labels, value), (expected_labels, expected_value)) in found.iter().zip(expected.iter()) {
            assert_eq!(labels, expected_labels, "{query}");
            assert!((value - expected_value).abs() < 1e-6, "{query}: {value} is not {expected_value}");
        }
    }
}

#[test]
fn quantiles_are_interpolated_in_their_bucket() {
    for (quantile, expected) in [(0.5, 0.1), (0.7, 0.55), (0.9, 1.0), (0.99, 1.0)] {
        let found = ask(&format!("histogram_quantile({quantile}, time_bucket)"), 10).unwrap();
        assert!((found[0].1 - expected).abs() < 1e-9, "{quantile}: {found:?}");
    }
}

#[test]
fn a_counter_reset_is_not_a_loss() {
    let found = ask("increase(requests_total{service=\"ads\"}[1m])", 60).unwrap();
    // 10, 20, reset to 5, 15, 25, 35: 25 + 20 grown in 50 s sampled, extrapolated to 60 s.
    assert!((found[0].1 - 54.0).abs() < 1.0, "{found:?}");
}

#[test]
fn a_series_that_vanished_is_stale_at_once_and_one_without_news_after_five_minutes() {
    assert_eq!(ask("gone", 20).unwrap().len(), 1);
    assert_eq!(ask("gone", 30).unwrap(), []);
    assert_eq!(ask("memory", 60 + 299).unwrap().len(), 1);
    assert_eq!(ask("memory", 60 + 301).unwrap(), []);
}

#[test]
fn everything_else_is_refused_by_name() {
    for (query, what) in [
        ("topk(3, memory)", "function topk"),
        ("memory offset 5m", "offset"),
        ("memory and limit", "and"),
        ("sum without (pod) (memory)", "without"),
        ("rate(memory[5m:1m])", "subquery"),
        ("memory[5m]", "range selector"),
        ("memory > bool 1", "bool"),
        ("absent(memory)", "function absent"),
        ("memory{pod=}", "quoted value"),
        ("(memory", "end of the query"),
        ("", "end of the query"),
        ("requests_total / requests_total > foo(", "function foo"),
    ] {
        let error = ask(query, 60).unwrap_err().to_string();
        assert!(error.contains(what), "{query}: {error}");
    }
}

//! Damage: one modality at a time is taken away, corrupted, or blown up.

use std::collections::BTreeMap;

use amend_diagnosis::evidence::{Answer, LogLine, Observations, Series, Span};

use super::{BEGINS, at};

/// Spoils observations.
pub type Damage = fn(&mut Observations);

/// Every damage with its name.
pub const DAMAGES: &[(&str, Damage)] = &[
    ("no metrics", |seen| seen.series = Answer::unknown("the store does not answer")),
    ("no traces", |seen| seen.spans = Answer::unknown("the store does not answer")),
    ("no logs", |seen| seen.logs = Answer::unknown("the store does not answer")),
    ("no objects", |seen| seen.objects = Answer::unknown("the API server does not answer")),
    ("no changes", |seen| seen.changes = Answer::unknown("the forge does not answer")),
    ("no topology", |seen| seen.topology = Answer::unknown("nobody knows")),
    ("no stores at all", |seen| {
        seen.series = Answer::unknown("the store does not answer");
        seen.spans = Answer::unknown("the store does not answer");
        seen.logs = Answer::unknown("the store does not answer");
    }),
    ("metrics are not numbers", |seen| values(seen, |_, _| f64::NAN)),
    ("metrics are infinite", |seen| {
        values(seen, |time, _| if time as i64 % 2 == 0 { f64::INFINITY } else { f64::NEG_INFINITY })
    }),
    ("metrics are 1e308", |seen| values(seen, |_, value| if value > 0.0 { 1e308 } else { -1e308 })),
    ("metrics are constant", |seen| values(seen, |_, _| 1.0)),
    ("metrics are empty", |seen| series(seen, |one| one.samples.clear())),
    ("metrics are stale", |seen| {
        let begins = at(BEGINS).as_second() as f64;
        series(seen, |one| one.samples.retain(|(time, _)| *time < begins - 600.0));
    }),
    ("metrics are reset again and again", |seen| {
        values(seen, |time, value| if (time as i64 / 300) % 2 == 0 { 0.0 } else { value });
    }),
    ("metrics run five minutes ahead", |seen| {
        series(seen, |one| one.samples.iter_mut().for_each(|sample| sample.0 += 300.0))
    }),
    ("every second series is missing", |seen| {
        if let Answer::Known(list) = &mut seen.series {
            let mut number = 0;
            list.retain(|_| {
                number += 1;
                number % 2 == 0
            });
        }
    }),
    ("two stores contradict each other", |seen| {
        if let Answer::Known(list) = &mut seen.series {
            let turned = list.iter().map(|one| {
                let samples = one.samples.iter().rev().map(|(_, value)| *value);
                let samples = one.samples.iter().map(|(time, _)| *time).zip(samples).collect();
                let mut labels = one.labels.clone();
                labels.insert("prometheus".to_owned(), "other".to_owned());
                Series { labels, samples, asked: one.asked.clone() }
            });
            let turned: Vec<Series> = turned.collect();
            list.extend(turned);
        }
    }),
    ("two hundred thousand series", |seen| {
        if let Answer::Known(list) = &mut seen.series {
            let begins = at(BEGINS).as_second() as f64;
            list.extend((0..200_000).map(|number| Series {
                labels: BTreeMap::from([
                    ("__name__".to_owned(), format!("metric_{}", number % 500)),
                    ("namespace".to_owned(), "elsewhere".to_owned()),
                    ("pod".to_owned(), format!("pod-{}", number / 500)),
                ]),
                samples: (-4..4).map(|step| (begins + 60.0 * f64::from(step), f64::from(number % 7))).collect(),
                asked: "metrics".to_owned(),
            }));
        }
    }),
    ("half of the pods are missing", |seen| {
        if let Answer::Known(list) = &mut seen.objects {
            let mut number = 0;
            list.retain(|object| {
                number += usize::from(object["kind"] == "Pod");
                object["kind"] != "Pod" || number % 2 == 0
            });
        }
    }),
    ("spans have no parents", |seen| spans(seen, |span| span.parent_id = Some(format!("lost{}", span.span_id)))),
    ("spans are their own ancestors", |seen| {
        if let Answer::Known(list) = &mut seen.spans {
            for pair in list.chunks_mut(2) {
                if let [one, other] = pair {
                    one.parent_id = Some(other.span_id.clone());
                    other.parent_id = Some(one.span_id.clone());
                    other.trace_id = one.trace_id.clone();
                }
            }
        }
    }),
    ("traces are two hundred deep", |seen| {
        if let Answer::Known(list) = &mut seen.spans
            && let Some(first) = list.first().cloned()
        {
            list.extend((0..20).flat_map(|trace| (0..200).map(move |depth| (trace, depth))).map(|(trace, depth)| {
                Span {
                    trace_id: format!("deep{trace}"),
                    span_id: format!("deep{trace}-{depth}"),
                    parent_id: (depth > 0).then(|| format!("deep{trace}-{}", depth - 1)),
                    ..first.clone()
                }
            }));
        }
    }),
    ("traces run five minutes behind", |seen| {
        spans(seen, |span| span.start_ns = span.start_ns.saturating_sub(300_000_000_000))
    }),
    ("spans last for ever", |seen| spans(seen, |span| span.duration_ns = u64::MAX)),
    ("logs are binary", |seen| lines(seen, |line| line.body = "\u{0}\u{fffd}\u{1}\u{fffd}\u{1b}[31m".to_owned())),
    ("log lines of a megabyte", |seen| {
        let mut number = 0;
        lines(seen, |line| {
            number += 1;
            if number <= 20 {
                line.body = "error ".repeat(170_000);
            }
        });
    }),
    ("three hundred thousand log lines", |seen| {
        if let Answer::Known(list) = &mut seen.logs
            && let Some(first) = list.first().cloned()
        {
            list.extend(
                (0..300_000)
                    .map(|number| LogLine { body: format!("level=info msg=\"tick {number}\""), ..first.clone() }),
            );
        }
    }),
    ("log lines carry no time", |seen| lines(seen, |line| line.at_ns = None)),
    ("objects are not objects", |seen| {
        if let Answer::Known(list) = &mut seen.objects {
            list.iter_mut().for_each(|object| *object = serde_json::json!([null, 3, {"kind": 5, "metadata": []}]));
        }
    }),
];

fn series(seen: &mut Observations, spoil: impl Fn(&mut Series)) {
    if let Answer::Known(list) = &mut seen.series {
        list.iter_mut().for_each(spoil);
    }
}

fn values(seen: &mut Observations, value: impl Fn(f64, f64) -> f64) {
    series(seen, |one| one.samples.iter_mut().for_each(|sample| sample.1 = value(sample.0, sample.1)));
}

fn spans(seen: &mut Observations, spoil: impl Fn(&mut Span)) {
    if let Answer::Known(list) = &mut seen.spans {
        list.iter_mut().for_each(spoil);
    }
}

fn lines(seen: &mut Observations, spoil: impl FnMut(&mut LogLine)) {
    if let Answer::Known(list) = &mut seen.logs {
        list.iter_mut().for_each(spoil);
    }
}
